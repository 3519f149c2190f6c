//! The real `docker-registry` as a site runs it: TLS by the site's own authority, a user with a password, deletion on.
//! A gate stands in front of it, through which everything goes, and which can be told to stop after so many octets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::deb::run;
use crate::side::free_port;
use crate::wait_for;

/// The user.
pub const USER: &str = "pusher";
/// Its password.
pub const PASSWORD: &str = "s3cret-of-the-test";
/// `USER:` and what bcrypt makes of the password.
const HTPASSWD: &str = "pusher:$2b$04$Xvdhl03NmOVrTEJEFxwWPe/vf75nws2NfXOLfQaopcp/Cg4ixBon2\n";

/// A registry, and the gate in front of it.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
    gate: Gate,
}

impl Registry {
    /// A running registry with everything that it keeps in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let auth =
            format!("auth:\n  htpasswd:\n    realm: site\n    path: {}\n", dir.join("htpasswd").display());
        Self::start_with(dir, &auth)
    }

    /// The same, where nobody needs a password.
    pub fn start_open(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "")
    }

    fn start_with(dir: &Path, auth: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        authority(dir)?;
        std::fs::write(dir.join("htpasswd"), HTPASSWD)?;
        let port = free_port()?;
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: of-the-test\n  tls:\n    certificate: {}\n    key: {}\n\
             {auth}",
            path("data"),
            path("server.pem"),
            path("server.key")
        );
        std::fs::write(dir.join("config.yml"), config)?;
        let gate = Gate::open(port)?;
        let mut registry = Self { dir: dir.to_owned(), port, child: None, gate };
        registry.resume()?;
        Ok(registry)
    }

    /// What clients call it: `localhost:PORT`, of the gate.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.gate.port)
    }

    /// The certificate of the authority that made its own.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The gate.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Ends it as a power cut would.
    pub fn kill_9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the registry does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again where it was.
    pub fn resume(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = Command::new("docker-registry");
        command.args(["serve"]).arg(self.dir.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot run docker-registry")?);
        wait_for("the registry listens", Duration::from_secs(60), || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok().map(drop))
        })
    }

    /// Requests that it has answered, of these methods, whose path has `part` in it: `METHOD PATH`.
    pub fn answered(&self, methods: &[&str], part: &str) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.dir.join("log"))?;
        let request = |line: &str| {
            // 127.0.0.1 - - [DATE] "METHOD PATH HTTP/1.1" STATUS …
            let (_, rest) = line.split_once("] \"")?;
            let (request, _) = rest.split_once(" HTTP/")?;
            let (method, path) = request.split_once(' ')?;
            (methods.contains(&method) && path.contains(part)).then(|| request.to_owned())
        };
        Ok(log.lines().filter_map(request).collect())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.kill_9();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("── docker-registry says (last 60 of {} lines)", lines.len());
            lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| eprintln!("   {line}"));
        }
    }
}

/// A site's authority, and a certificate for `localhost` by it.
fn authority(dir: &Path) -> Result<()> {
    let path = |name: &str| dir.join(name);
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    let mut ca = Command::new("openssl");
    ca.args(["req", "-x509"])
        .args(key)
        .args(["-subj", "/CN=The site's authority", "-keyout"])
        .arg(path("ca.key"));
    run(ca.arg("-out").arg(path("ca.pem")))?;
    let mut server = Command::new("openssl");
    server.args(["req", "-x509"]).args(key).args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    server.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    server
        .arg("-CA")
        .arg(path("ca.pem"))
        .arg("-CAkey")
        .arg(path("ca.key"))
        .arg("-keyout")
        .arg(path("server.key"));
    run(server.arg("-out").arg(path("server.pem")))?;
    Ok(())
}

/// Passes connections on.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    state: Arc<GateState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct GateState {
    to: SocketAddr,
    /// Octets towards the registry that may still pass.
    left: AtomicU64,
    is_stopped: AtomicBool,
    /// Connections are cut.
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Gate {
    fn open(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(GateState {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, to)),
            left: AtomicU64::new(u64::MAX),
            is_stopped: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let shared = state.clone();
        let accept = move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (stream, TcpStream::connect(shared.to)) else { continue };
                let (Ok(back), Ok(from)) = (client.try_clone(), server.try_clone()) else { continue };
                let up = shared.clone();
                std::thread::spawn(move || up.pass(client, server));
                let down = shared.clone();
                std::thread::spawn(move || down.pass_back(from, back));
            }
        };
        Ok(Self { port, state, thread: Some(std::thread::spawn(accept)) })
    }

    /// Lets so many octets more through, towards the registry; then nothing goes on.
    pub fn stop_after(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
        self.state.is_stopped.store(false, Ordering::SeqCst);
    }

    /// Whether that many went through.
    pub fn is_stopped(&self) -> bool {
        self.state.is_stopped.load(Ordering::SeqCst)
    }

    /// Cuts what is open.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    /// Lets everything through again.
    pub fn open_again(&self) {
        self.state.left.store(u64::MAX, Ordering::SeqCst);
        self.state.is_stopped.store(false, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl GateState {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
        while !self.is_cut.load(Ordering::SeqCst) && !self.is_over.load(Ordering::Relaxed) {
            let left = self.left.load(Ordering::SeqCst);
            if left == 0 {
                self.is_stopped.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match from.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(read) => {
                    if left != u64::MAX {
                        let less = |left: u64| Some(left.saturating_sub(read as u64));
                        let _ = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
                    }
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn pass_back(&self, mut from: TcpStream, mut to: TcpStream) {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    }
}
