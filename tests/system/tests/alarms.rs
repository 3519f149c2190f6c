//! Alarms go to the journal with a code, to a command and to a webhook of the same side: raised once, cleared once, in order,
//! until they were taken.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::origin::Origin;
use diodesync_system::side::{Pair, Setup, Side};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// What a server got: path, authorization, body.
type Got = (String, String, Value);

/// A server of the site that takes POSTs, after it has refused the first few.
struct Server {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Server {
    fn start(refused: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let all = got.clone();
        std::thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = Vec::new();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    head.push(line.trim().to_owned());
                }
                let field = |name: &str| {
                    let line = head.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
                    line.map(|line| line[name.len() + 1..].trim().to_owned()).unwrap_or_default()
                };
                let mut body = vec![0; field("content-length").parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let answer = if count < refused { "503 Service Unavailable" } else { "204 No Content" };
                stream
                    .write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .unwrap();
                if count >= refused {
                    assert_eq!(field("content-type"), "application/json");
                    let target = head[0].clone();
                    all.lock().unwrap().push((
                        target,
                        field("authorization"),
                        serde_json::from_slice(&body).unwrap(),
                    ));
                }
            }
        });
        Self { port, got }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?to=us", self.port)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<Value> {
        once(self.got().into_iter().map(|(_, _, event)| event).collect())
    }
}

/// An event whose taking a kill kept from being noted comes twice.
fn once(mut events: Vec<Value>) -> Vec<Value> {
    events.dedup();
    events
}

/// Has each event appended to a file by a script.
fn script(side: &Side) -> (PathBuf, PathBuf) {
    let (path, file) = (side.dir().with_extension("page.sh"), side.dir().with_extension("paged"));
    std::fs::write(&path, "#!/bin/sh\ncat >> \"$1\" && echo >> \"$1\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (path, file)
}

fn set(side: &Side, server: &Server) -> PathBuf {
    let (script, file) = script(side);
    let words = [script, file.clone()].map(|path| toml::Value::from(path.to_str().unwrap()));
    side.set(&["alarms", "command"], words.to_vec()).unwrap();
    side.set(&["alarms", "webhook"], server.url()).unwrap();
    let token = side.dir().with_extension("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    side.set(&["alarms", "token_file"], token.to_str().unwrap()).unwrap();
    file
}

fn paged(file: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    once(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// What happened to one alarm: code, what it is about, state.
fn of(events: &[Value], alarm: &str) -> Vec<(String, String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let ours = events.iter().filter(|event| event["alarm"] == alarm);
    ours.map(|event| (text(event, "event"), text(event, "about"), text(event, "state"))).collect()
}

fn happened(code: &str, about: &str, states: &[&str]) -> Vec<(String, String, String)> {
    states.iter().map(|state| (code.to_owned(), about.to_owned(), (*state).to_owned())).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    wait_for(what, MINUTE, || Ok(is_so().then_some(()))).unwrap();
}

/// Both ways take the same events, one after the other.
fn assert_same(file: &PathBuf, server: &Server) {
    wait_until("both have got the same", || !paged(file).is_empty() && paged(file) == server.events());
    let paged = paged(file);
    let seqs =
        |events: &[Value]| events.iter().map(|event| event["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(seqs(&paged), (1..=paged.len() as u64).collect::<Vec<_>>());
}

#[test]
fn what_is_raised_and_what_is_over_reaches_journal_command_and_webhook() {
    let _alone = alone();
    let mut pair = Pair::over_link(&Setup { name: "alarms", ..Setup::default() }, Weather::clear()).unwrap();
    let (low, high) = (Server::start(0), Server::start(3));
    let (low_file, high_file) = (set(&pair.low, &low), set(&pair.high, &high));
    pair.low.set(&["space", "reserve"], "8000TB").unwrap();
    pair.start().unwrap();
    let full = |states: &[&str]| happened("DS-S-0401", "", states);
    wait_until("the sender's full disk is told", || {
        of(&paged(&low_file), "disk-full") == full(&["raised"])
            && of(&low.events(), "disk-full") == full(&["raised"])
    });
    wait_for("a datagram came", MINUTE, || {
        Ok(pair.high_status()?.lanes.iter().any(|lane| lane.received > 0).then_some(()))
    })
    .unwrap();
    // Over restarts an alarm is not raised twice, and one that is over is.
    pair.low.kill_9().unwrap();
    let silence = |states: &[&str]| happened("DS-R-0101", "lane lane0", states);
    wait_until("the silence is told, although the server refuses at first", || {
        of(&paged(&high_file), "silence") == silence(&["raised"])
            && of(&high.events(), "silence") == silence(&["raised"])
    });
    pair.low.start().unwrap();
    wait_until("the silence is over", || {
        of(&paged(&high_file), "silence") == silence(&["raised", "cleared"])
            && of(&high.events(), "silence") == silence(&["raised", "cleared"])
    });
    assert_eq!(of(&paged(&low_file), "disk-full"), full(&["raised"]), "it was known");
    pair.low.stop().unwrap();
    pair.low.set(&["space", "reserve"], "0B").unwrap();
    pair.low.start().unwrap();
    wait_until("the disk is not full any more", || {
        of(&paged(&low_file), "disk-full") == full(&["raised", "cleared"])
            && of(&low.events(), "disk-full") == full(&["raised", "cleared"])
    });
    assert_same(&low_file, &low);
    assert_same(&high_file, &high);
    pair.stop().unwrap();
    for (target, authorization, event) in high.got() {
        assert_eq!((target.as_str(), authorization.as_str()), ("POST /hook?to=us HTTP/1.1", "Bearer s3cret"));
        assert_eq!(event["side"], "receiver");
    }
    for (side, code) in [(&pair.low, "DS-S-0401"), (&pair.high, "DS-R-0101")] {
        let log = side.log();
        for state in ["raised", "cleared"] {
            let lines = log.lines().filter(|line| line.contains(&format!("alarm {code} {state}"))).count();
            assert_eq!(lines, 1, "{code} {state} in:\n{log}");
        }
        assert!(log.contains(&format!("event=\"{code}\"")), "{log}");
        assert!(!log.contains("s3cret"));
    }
}

#[test]
fn a_receiver_of_several_processes_posts_by_the_one_that_has_a_network() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "alarms-roles", ..Setup::default() }, Weather::clear()).unwrap();
    let server = Server::start(0);
    let file = set(&pair.high, &server);
    pair.high.set(&["space", "reserve"], "8000TB").unwrap();
    pair.high.split();
    pair.high.start().unwrap();
    // Nothing posts yet, and that is told by the way that there is.
    wait_until("it is told that the role is missing", || {
        of(&paged(&file), "mirror-role") == happened("DS-R-0503", "", &["raised"])
    });
    assert!(server.got().is_empty());
    pair.high.stop().unwrap();
    pair.high.split_with("mirror");
    pair.high.start().unwrap();
    wait_until("all is told", || {
        of(&server.events(), "mirror-role") == happened("DS-R-0503", "", &["raised", "cleared"])
            && of(&server.events(), "disk-full") == happened("DS-R-0401", "", &["raised"])
    });
    assert_same(&file, &server);
    pair.high.stop().unwrap();
}

#[test]
fn tls_is_checked_and_what_does_not_get_through_is_an_alarm_itself() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "alarms-tls", ..Setup::default() }, Weather::clear()).unwrap();
    let origin = Origin::start(&pair.dir.join("")).unwrap();
    pair.low.set(&["space", "reserve"], "8000TB").unwrap();
    pair.low.set(&["alarms", "webhook"], origin.url("/hook")).unwrap();
    pair.low.set(&["alarms", "command"], vec![toml::Value::from("/bin/false")]).unwrap();
    // Of an authority that nobody knows here.
    pair.low.start().unwrap();
    wait_for("it is said why", MINUTE, || {
        let alarms = pair.low_status()?.alarms;
        let said =
            |id: &str, word: &str| alarms.iter().any(|alarm| alarm.id == id && alarm.text.contains(word));
        Ok((said("alarm-webhook", "TLS") && said("alarm-command", "/bin/false")).then_some(()))
    })
    .unwrap();
    pair.low.stop().unwrap();
    pair.low.set(&["alarms", "ca_file"], origin.ca.to_str().unwrap()).unwrap();
    pair.low.unset(&["alarms", "command"]).unwrap();
    origin.put("/hook", "taken");
    pair.low.start().unwrap();
    wait_for("nothing is in the way any more", MINUTE, || {
        Ok(pair.low_status()?.alarms.iter().all(|alarm| !alarm.id.starts_with("alarm-")).then_some(()))
    })
    .unwrap();
    assert!(origin.asked().iter().any(|asked| asked.path == "/hook"));
    // A configuration that can never work is refused.
    pair.low.stop().unwrap();
    pair.low.set(&["alarms", "webhook"], "alerts.site.example").unwrap();
    let done = pair.low.run(&["status"]).unwrap();
    assert!(done.code == Some(1) && done.stderr.contains("expected a URL"), "{done:?}");
}
