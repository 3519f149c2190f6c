//! The Debian packages in a folder of their own, without systemd: what their files say about users, folders and command
//! lines is enough for both sides to run. (`debian.rs` has a systemd do it.)

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diodesync_system::deb::run;
use diodesync_system::packaged::{SIDES, build, find_tools};
use diodesync_system::scratch::Scratch;
use diodesync_system::side::free_port;
use diodesync_system::skip::Skip;
use diodesync_system::status::{ReceiverStatus, ReleaseState};
use diodesync_system::wait_for;
use rustix::process::{Pid, Signal, kill_process};

const MINUTE: Duration = Duration::from_secs(60);

/// The folder that stands for `/`.
struct Root(PathBuf);

impl Root {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn state(&self, side: &str) -> PathBuf {
        self.path(&format!("/var/lib/diodesync-{side}"))
    }

    /// Words of a command line with the paths of this root, under the user that the package made.
    fn command(&self, side: &str, words: &[&str]) -> Command {
        let owner = std::fs::metadata(self.state(side)).unwrap();
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", owner.uid())).arg(format!("--regid={}", owner.gid()));
        command.args(["--clear-groups", "--no-new-privs", "--"]);
        for word in words {
            if word.starts_with('/') {
                command.arg(self.path(word))
            } else {
                command.arg(word)
            };
        }
        command.stdin(Stdio::null());
        command
    }

    fn ok(&self, side: &str, words: &[&str]) -> String {
        run(&mut self.command(side, words)).unwrap()
    }

    /// What the unit starts.
    fn start(&self, side: &str) -> Running {
        let unit = self.path(&format!("/usr/lib/systemd/system/diodesync-{side}.service"));
        let text = std::fs::read_to_string(unit).unwrap();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        let passwd = std::fs::read_to_string(self.path("/etc/passwd")).unwrap();
        let owner = std::fs::metadata(self.state(side)).unwrap().uid();
        let entry = format!("{}:x:{owner}:", value("User="));
        assert!(owner != 0 && passwd.lines().any(|line| line.starts_with(&entry)), "{entry} in {passwd}");
        let line = value("ExecStart=");
        let mut command = self.command(side, &line.split(' ').collect::<Vec<_>>());
        let log = std::fs::File::create(self.0.join(format!("{side}.log"))).unwrap();
        Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Changes the configuration that init has written.
    fn edit(&self, side: &str, change: impl FnOnce(&mut toml::Table)) {
        let path = self.state(side).join(format!("{side}.toml"));
        let mut table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        change(&mut table);
        std::fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    }

    fn log(&self, side: &str) -> String {
        std::fs::read_to_string(self.0.join(format!("{side}.log"))).unwrap_or_default()
    }
}

/// A daemon that ends with the test.
struct Running(Child);

impl Running {
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn their_command_lines_run_under_their_users_in_their_folders() {
    const WHAT: &str = "the Debian packages without systemd";
    if let Err(skip) = find_tools() {
        return skip.announce_or_fail_in_ci(WHAT);
    }
    if !rustix::process::geteuid().is_root() {
        return Skip::curable("other users' processes need root").announce_or_fail_in_ci(WHAT);
    }
    let scratch = Scratch::new("debroot").unwrap();
    let packages = build(scratch.path(), "1").unwrap();
    let root = Root(scratch.join("root"));
    std::fs::create_dir_all(root.path("/etc")).unwrap();
    for package in packages.values() {
        run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root.0)).unwrap();
    }
    for program in ["systemd-sysusers", "systemd-tmpfiles"] {
        let mut command = Command::new(program);
        command.arg(format!("--root={}", root.0.display()));
        if program == "systemd-tmpfiles" {
            command.arg("--create");
        }
        if let Err(error) = command.output() {
            let skip = Skip::curable(format!("cannot run {program} ({error}); the package is systemd"));
            return skip.announce_or_fail_in_ci(WHAT);
        }
    }

    let high = ["/usr/bin/diode-receiver", "/var/lib/diodesync-receiver"];
    let low = ["/usr/bin/diode-sender", "/var/lib/diodesync-sender"];
    root.ok("receiver", &[high[0], "init", "--dir", high[1], "--host", "localhost"]);
    // Carried by hand.
    std::fs::copy(root.state("receiver").join("receiver.pub"), root.path("/receiver.pub")).unwrap();
    root.ok("sender", &[low[0], "init", "--dir", low[1], "--receiver", "/receiver.pub"]);
    std::fs::copy(root.state("sender").join("pairing.json"), root.path("/pairing.json")).unwrap();
    for side in SIDES {
        let config = format!("{side}.toml");
        symlink(root.state(side).join(&config), root.path("/etc/diodesync").join(config)).unwrap();
    }
    let config = ["--config", "/etc/diodesync/receiver.toml"];
    root.ok("receiver", &[&[high[0], "pair"], config.as_slice(), &["/pairing.json"]].concat());
    let [lane, serve, one, two] = [(); 4].map(|()| format!("127.0.0.1:{}", free_port().unwrap()));
    let listen = |address: &str| toml::Table::from_iter([("listen".to_owned(), address.into())]);
    root.edit("sender", |config| {
        config["lane"][0]["to"] = lane.as_str().into();
        config.insert("dashboard".to_owned(), listen(&one).into());
    });
    root.edit("receiver", |config| {
        config["lane"][0]["listen"] = lane.as_str().into();
        config["serve"]["listen"] = serve.as_str().into();
        config.insert("dashboard".to_owned(), listen(&two).into());
    });

    let (receiver, sender) = (root.start("receiver"), root.start("sender"));
    let status = ["status", "--json"];
    let receiver_status = [&[high[0]], status.as_slice(), &config].concat();
    let sender_config = ["--config", "/etc/diodesync/sender.toml"];
    let sender_status = [&[low[0]], status.as_slice(), &sender_config].concat();
    for (side, words) in [("receiver", &receiver_status), ("sender", &sender_status)] {
        let answers = || Ok(root.command(side, words).output()?.status.success().then_some(()));
        let waited = wait_for("its daemon answers", MINUTE, answers);
        assert!(waited.is_ok(), "{side}: {waited:?}: {}", root.log(side));
    }
    root.ok("sender", &[&[low[0], "submit", "files", "/receiver.pub"], sender_config.as_slice()].concat());
    root.ok("sender", &[&[low[0], "release"], sender_config.as_slice()].concat());
    let waited = wait_for("release 1 is published", MINUTE, || {
        let status: ReceiverStatus = serde_json::from_str(&root.ok("receiver", &receiver_status))?;
        let release = status.release("main", 1);
        Ok(release.is_some_and(|release| release.state == ReleaseState::Published).then_some(()))
    });
    assert!(waited.is_ok(), "{waited:?}: {}{}", root.log("receiver"), root.log("sender"));
    assert_eq!((sender.stop(), receiver.stop()), (Some(0), Some(0)));
}
