//! Who calls, as the kernel says it.

use std::convert::Infallible;
use std::io::Read;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, request::Parts};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use diodesync::audit::{Actor, Event, Person};
use tokio::net::UnixListener;

use super::Audit;
use crate::server::Why;

/// Octets of a file of the kernel, or of the list of users, that are looked at.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a command line that are told.
const COMMAND_CHARS_MAX: usize = 300;
/// What the kernel has for "nobody logged in".
const NO_LOGIN: u32 = u32::MAX;

/// Who sent a request over the control socket.
#[derive(Debug, Clone)]
pub struct Caller(pub Actor);

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(match stream.io().peer_cred() {
            Ok(peer) => {
                let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
                Actor::Caller(person(peer.uid(), pid))
            }
            Err(error) => Actor::daemon(format!("a caller whom the kernel does not name: {error}")),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let info = parts.extensions.get::<ConnectInfo<Self>>();
        Ok(info.map_or_else(|| Self(Actor::daemon("a caller without a socket")), |info| info.0.clone()))
    }
}

/// This process, for what a command does itself.
pub fn command() -> Actor {
    let uid = rustix::process::getuid().as_raw();
    Actor::Command(person(uid, std::process::id()))
}

/// Tells what was asked for over the control socket and not done.
pub async fn refusals(State(audit): State<Audit>, caller: Caller, request: Request, next: Next) -> Response {
    let what =
        (request.method() != Method::GET).then(|| format!("{} {}", request.method(), request.uri().path()));
    let response = next.run(request).await;
    if let Some(what) = what.filter(|_| !response.status().is_success()) {
        let why = response.extensions().get::<Why>().map(|why| why.0.clone());
        let why = why.unwrap_or_else(|| response.status().to_string());
        // It waits for the disk.
        let note = move || audit.note(&caller.0, Event::Failed { what, why });
        let _ = tokio::task::spawn_blocking(note).await;
    }
    response
}

fn person(uid: u32, pid: u32) -> Person {
    let login = read(&format!("/proc/{pid}/loginuid")).and_then(|text| text.trim().parse().ok());
    let login = login.filter(|login| *login != NO_LOGIN && *login != uid);
    let command = read(&format!("/proc/{pid}/cmdline")).map(|line| {
        let words: Vec<&str> = line.split('\0').filter(|word| !word.is_empty()).collect();
        words.join(" ").chars().take(COMMAND_CHARS_MAX).collect::<String>()
    });
    Person {
        uid,
        user: user(uid),
        login: login.map(|login| user(login).unwrap_or_else(|| login.to_string())),
        pid,
        command: command.filter(|command| !command.is_empty()),
    }
}

/// The name of a user in `/etc/passwd` (passwd(5)); those of other databases have their number.
fn user(uid: u32) -> Option<String> {
    let users = read("/etc/passwd")?;
    let name = |line: &str| {
        let mut fields = line.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found.parse() == Ok(uid)).then(|| name.to_owned())
    };
    users.lines().find_map(name)
}

fn read(path: &str) -> Option<String> {
    let mut octets = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut octets).ok()?;
    Some(String::from_utf8_lossy(&octets).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_user_and_a_command_line() {
        let Actor::Command(person) = command() else { panic!() };
        assert_eq!(person.pid, std::process::id());
        assert!(person.command.is_some_and(|command| command.contains("diodesync")));
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(user(4_000_000_000), None);
    }
}
