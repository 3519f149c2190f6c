//! What upstreams do, and what comes of it: a server on loopback that answers as each test says.

use std::collections::{BTreeMap, VecDeque};

use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use diodesync::id::Sha256;

/// What the server does with one request.
enum Then {
    /// Says these octets, and closes the connection.
    Say(Vec<u8>),
    /// Says these octets, and then the last of them for ever, slowly.
    Trickle(Vec<u8>, Duration),
}

/// Answers one connection after the other; the requests that came.
async fn serve(answers: Vec<Then>) -> (Url, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/file", listener.local_addr().unwrap())).unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut answers) = (requests.clone(), VecDeque::from(answers));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(octet) = stream.read_u8().await else { break };
                request.push(octet);
            }
            if request.is_empty() {
                continue;
            }
            seen.lock().unwrap().push(String::from_utf8(request).unwrap());
            match answers.pop_front().expect("a request more than the test has answers for") {
                Then::Say(octets) => stream.write_all(&octets).await.unwrap(),
                Then::Trickle(octets, every) => {
                    stream.write_all(&octets).await.unwrap();
                    while stream.write_all(&octets[octets.len() - 1..]).await.is_ok() {
                        tokio::time::sleep(every).await;
                    }
                }
            }
        }
    });
    (url, requests)
}

fn say(head: &str, body: &[u8]) -> Then {
    Then::Say([head.replace('\n', "\r\n").as_bytes(), b"\r\n\r\n", body].concat())
}

fn whole(body: &[u8], more: &str) -> Then {
    say(&format!("HTTP/1.1 200 OK\nContent-Length: {}{more}", body.len()), body)
}

fn access() -> Access {
    Access { parallel: 2, ca_file: None, proxy: None, user: None, token_file: None, hosts: BTreeMap::new() }
}

fn fetcher(homes: &[Url], bytes_max: u64) -> Fetcher {
    let patience = Patience {
        tries: 3,
        wait_first: Duration::from_millis(1),
        retry_after_max: Duration::from_secs(2),
        window: Duration::from_millis(200),
        window_bytes_min: 1000,
        ..Patience::default()
    };
    Fetcher::with_patience(&access(), homes, bytes_max, Arc::new(|_| Ok(())), patience).unwrap()
}

/// One whose source has its URL there.
fn at_home(url: &Url, bytes_max: u64) -> Fetcher {
    fetcher(std::slice::from_ref(url), bytes_max)
}

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("diode-fetch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn want(&self, url: &Url, sha256: Option<Sha256>) -> Download {
        Download {
            request: Request::get(url.clone()),
            folder: self.0.clone(),
            sha256,
            bytes: None,
            bytes_max: 1 << 20,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn fails(answers: Vec<Then>, want: impl FnOnce(&Folder, &Url) -> Download, name: &str) -> String {
    let (url, _) = serve(answers).await;
    let folder = Folder::new(name);
    let error = at_home(&url, 1 << 20).file(&want(&folder, &url)).await.unwrap_err();
    error.to_string().replace(&url.origin(), "http://UPSTREAM")
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_told() {
    let busy = || say("HTTP/1.1 503 Service Unavailable\nContent-Length: 4", b"busy");
    let (url, requests) = serve(vec![
        busy(),
        say("HTTP/1.1 429 Too Many Requests\nRetry-After: 1\nContent-Length: 0", b""),
        whole(b"it", ""),
    ])
    .await;
    let fetch = at_home(&url, 100);
    assert_eq!(fetch.body(&Request::get(url), 100).await.unwrap(), "it");
    assert_eq!(requests.lock().unwrap().len(), 3);

    for (answers, expected) in [
        (vec![busy(), busy(), busy()], "answered 503 Service Unavailable (\"busy\") (tried 3 times)"),
        (
            vec![say("HTTP/1.1 429 Too Many Requests\nRetry-After: 3600\nContent-Length: 0", b"")],
            "429 Too Many Requests; it asks to come back after 1 h 0 min",
        ),
        (
            vec![say("HTTP/1.1 404 Not Found\nContent-Length: 6", b"<html>")],
            "404 Not Found; look at the name",
        ),
        (
            vec![say("HTTP/1.1 401 Unauthorized\nContent-Length: 0", b"")],
            "401 Unauthorized; give credentials with token_file",
        ),
        (vec![whole(&[b'x'; 101], "")], "the answer is longer than 100 B"),
        (
            vec![say("HTTP/1.1 302 Found\nLocation: file:///etc/passwd", b"")],
            "\"file:///etc/passwd\", where it is not followed",
        ),
        (vec![say("HTTP/1.1 200 OK\nContent-Length: 10", b"short"), busy(), busy()], "tried 3 times"),
    ] {
        let (url, _) = serve(answers).await;
        let error = at_home(&url, 100).body(&Request::get(url), 100).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn redirects_end_and_keep_credentials_at_home() {
    let (to, seen) = serve(vec![whole(b"it", "")]).await;
    let (url, requests) =
        serve(vec![say(&format!("HTTP/1.1 307 Temporary Redirect\nLocation: {}x", to.origin() + "/"), b"")])
            .await;
    let fetch = at_home(&url, 100);
    let request = Request::get(url).authorized(Some(HeaderValue::from_static("Bearer secret")));
    assert_eq!(fetch.body(&request, 100).await.unwrap(), "it");
    assert!(requests.lock().unwrap()[0].contains("authorization: Bearer secret"));
    assert!(!seen.lock().unwrap()[0].contains("secret"), "another origin");

    let again = || say("HTTP/1.1 302 Found\nLocation: /file", b"");
    let (url, _) = serve((0..=REDIRECTS_MAX).map(|_| again()).collect()).await;
    let error = at_home(&url, 100).body(&Request::get(url), 100).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 others"), "{error}");
}

#[tokio::test]
async fn an_upstream_does_not_lead_to_this_machine() {
    let (url, requests) = serve(Vec::new()).await;
    let outside = Url::parse("http://192.0.2.1/").unwrap();
    let error = fetcher(&[outside], 100).body(&Request::get(url.clone()), 100).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1 is 127.0.0.1, an address of this machine"), "{error}");
    for name in ["localhost", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"] {
        let to = Url::parse(&format!("http://{name}:{}/", url.port())).unwrap();
        let error = fetcher(&[], 100).body(&Request::get(to), 100).await.unwrap_err();
        assert!(matches!(error, FetchError::Inner { .. }), "{name}: {error}");
    }
    // A proxy that looks names up is not asked to either.
    let proxied = Access { proxy: Some(url.clone()), ..access() };
    let fetch = Fetcher::new(&proxied, &[], 100, Arc::new(|_| Ok(()))).unwrap();
    let error = fetch.body(&Request::get(Url::parse("http://localhost/").unwrap()), 100).await.unwrap_err();
    assert!(matches!(error, FetchError::Inner { .. }), "{error}");
    assert!(requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_is_asked() {
    let (proxy, requests) = serve(vec![whole(b"it", ""), say("HTTP/1.1 403 Forbidden", b"")]).await;
    let access = Access { proxy: Some(Url::parse(&proxy.origin()).unwrap()), ..access() };
    let patience = Patience { tries: 1, ..Patience::default() };
    let fetch = Fetcher::with_patience(&access, &[], 100, Arc::new(|_| Ok(())), patience).unwrap();
    let get = |url: &str| Request::get(Url::parse(url).unwrap());
    assert_eq!(fetch.body(&get("http://up.example/a?b"), 100).await.unwrap(), "it");
    assert!(
        requests.lock().unwrap()[0].starts_with("GET http://up.example/a?b HTTP/1.1\r\nhost: up.example\r\n")
    );
    let error = fetch.body(&get("https://up.example/a"), 100).await.unwrap_err().to_string();
    assert!(error.contains("it does not connect to up.example:443: HTTP/1.1 403 Forbidden"), "{error}");
    assert!(requests.lock().unwrap()[1].starts_with("CONNECT up.example:443 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn what_broke_off_goes_on() {
    let content: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    let digest = Sha256::of(&content);
    let cut = |more: &str| {
        say(
            &format!("HTTP/1.1 200 OK\nContent-Length: {}{more}", content.len()),
            content.get(..60_000).unwrap(),
        )
    };
    let rest = say(
        "HTTP/1.1 206 Partial Content\nContent-Length: 40000\nContent-Range: bytes 60000-99999/100000",
        content.get(60_000..).unwrap(),
    );
    let (url, requests) = serve(vec![cut(""), rest]).await;
    let folder = Folder::new("resume");
    let fetch = at_home(&url, 1 << 20);
    let found = fetch.file(&folder.want(&url, Some(digest))).await.unwrap();
    assert_eq!(
        (found.sha256, found.bytes, std::fs::read(&found.path).unwrap()),
        (digest, 100_000, content.clone())
    );
    assert!(requests.lock().unwrap()[1].contains("range: bytes=60000-\r\n"));
    // What is whole is not asked for again.
    assert_eq!(fetch.file(&folder.want(&url, Some(digest))).await.unwrap().bytes, 100_000);

    // Without a digest the upstream decides, and here it says that it is another file now.
    let (url, requests) = serve(vec![cut("\nETag: \"one\""), whole(b"another", "\nETag: \"two\"")]).await;
    let found = at_home(&url, 1 << 20).file(&folder.want(&url, None)).await.unwrap();
    assert_eq!(std::fs::read(&found.path).unwrap(), b"another");
    assert!(requests.lock().unwrap()[1].contains("if-range: \"one\"\r\n"));

    // Without a validator it begins anew.
    let (url, requests) = serve(vec![cut("\nETag: W/\"one\""), whole(b"another", "")]).await;
    at_home(&url, 1 << 20).file(&folder.want(&url, None)).await.unwrap();
    assert!(!requests.lock().unwrap()[1].contains("range"));

    // A rest of something else is found out, and it begins anew.
    let wrong = say(
        "HTTP/1.1 206 Partial Content\nContent-Length: 40000\nContent-Range: bytes 60000-99999/100000",
        &[0; 40_000],
    );
    let (url, requests) = serve(vec![cut(""), wrong, whole(&content, "")]).await;
    let folder = Folder::new("rest");
    let found = at_home(&url, 1 << 20).file(&folder.want(&url, Some(digest))).await.unwrap();
    assert_eq!((found.sha256, requests.lock().unwrap().len()), (digest, 3));
}

#[tokio::test]
async fn those_that_want_the_same_share_it() {
    let (url, requests) =
        serve(vec![whole(b"it", "\nETag: \"one\""), whole(b"it", ""), whole(b"it", "")]).await;
    let folder = Folder::new("share");
    let fetch = at_home(&url, 1 << 20);
    let want = folder.want(&url, None);
    let (one, two) = tokio::join!(fetch.file(&want), fetch.file(&want));
    assert_eq!((one.unwrap().sha256, two.unwrap().sha256), (Sha256::of(b"it"), Sha256::of(b"it")));
    let count = || requests.lock().unwrap().len();
    assert_eq!(count(), 1);

    // What is gone from the disk, or is not what another wants, is asked for anew.
    std::fs::remove_file(want.path()).unwrap();
    fetch.file(&want).await.unwrap();
    assert_eq!(count(), 2);
    let longer = Download { bytes: Some(3), ..want.clone() };
    assert!(matches!(fetch.file(&longer).await, Err(FetchError::Length { .. })));
    assert_eq!(count(), 3);
}

#[tokio::test]
async fn what_lies_is_refused() {
    let none = Sha256([0; 32]);
    let of = |answer, sha256: Option<Sha256>, bytes: Option<u64>, name| {
        fails(vec![answer], move |folder, url| Download { bytes, ..folder.want(url, sha256) }, name)
    };
    let error = of(whole(b"other", ""), Some(none), None, "digest").await;
    assert!(
        error.starts_with("http://UPSTREAM/file: expected SHA-256 0000")
            && error.contains("found d9298a10d1b0"),
        "{error}"
    );
    let error = of(whole(b"longer", ""), None, Some(5), "length").await;
    assert_eq!(
        error,
        "http://UPSTREAM/file: expected 5 octets, the upstream has 6; it lies, or the file was replaced"
    );
    let chunked = say("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"6\r\nlonger\r\n0\r\n\r\n");
    assert!(of(chunked, None, Some(5), "chunked").await.contains("expected 5 octets"));
    let huge = say("HTTP/1.1 200 OK\nContent-Length: 9999999999999", b"x");
    assert!(of(huge, None, None, "huge").await.contains("longer than 1 MiB"));
    let endless = Then::Say(
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
            &b"10000\r\n"
                .iter()
                .copied()
                .chain([b'x'; 0x10000])
                .chain(*b"\r\n")
                .collect::<Vec<u8>>()
                .repeat(20),
        ]
        .concat(),
    );
    assert!(of(endless, None, None, "endless").await.contains("longer than 1 MiB"));
    let trickle = || {
        Then::Trickle(
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx".to_vec(),
            Duration::from_millis(20),
        )
    };
    let error =
        fails(vec![trickle(), trickle(), trickle()], |folder, url| folder.want(url, None), "trickle").await;
    assert!(error.contains("came within") && error.contains("tried 3 times"), "{error}");
}

#[tokio::test]
async fn a_source_brings_no_more_than_it_may() {
    let (url, _) = serve(vec![whole(&[1; 600], ""), whole(&[2; 600], "")]).await;
    let folder = Folder::new("budget");
    let fetch = at_home(&url, 1000);
    fetch.file(&folder.want(&url, None)).await.unwrap();
    let other = url.join("/other").unwrap();
    let error = fetch.file(&folder.want(&other, None)).await.unwrap_err().to_string();
    assert!(error.contains("more than 1000 B") && error.contains("bytes_max"), "{error}");
}

#[test]
fn a_wait_is_read_in_both_forms() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    for (text, wait) in [
        ("120", Some(120)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:40:37 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(retry_after(&headers, now), wait.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn credentials_are_read_from_private_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("credentials");
    let put = |name: &str, content: &str, mode: u32| {
        let path = folder.0.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let (token, user) = (put("token", "abc\n", 0o600), put("user", "me\n", 0o644));
    let password = put("password", "secret", 0o600);
    let of = |access: Access| authorization(&access).map(|value| value.unwrap().to_str().unwrap().to_owned());
    assert_eq!(of(Access { token_file: Some(token.clone()), ..access() }).unwrap(), "Bearer abc");
    assert_eq!(of(Access { user: Some((user, password)), ..access() }).unwrap(), "Basic bWU6c2VjcmV0");
    put("token", "abc\n", 0o644);
    let error = of(Access { token_file: Some(token.clone()), ..access() }).unwrap_err().to_string();
    assert!(error.contains("chmod 600") && !error.contains("abc"), "{error}");
    put("token", "a\u{1}b", 0o600);
    assert!(of(Access { token_file: Some(token), ..access() }).is_err());
}
