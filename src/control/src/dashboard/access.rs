//! Who may do more than look: who knows the token in a file that only the daemon's user can read. A browser shows it
//! once and gets a cookie for a while; a program sends it with each request.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::http::{HeaderMap, header};
use diodesync::id::Blake3;

use crate::secret;

/// Browsers that are signed in at once; one more signs the first out.
const SESSIONS_MAX: usize = 16;
/// How long one is signed in.
const SESSION_MS: u64 = 8 * 3600 * 1000;
/// Characters of a token.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
/// The pause after a wrong token; only one is compared at a time.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Access {
    file: Option<PathBuf>,
    cookie: &'static str,
    /// Digests of the cookies, and when they end.
    sessions: Mutex<VecDeque<(Blake3, u64)>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Access {
    /// Cookies know no ports, so each side has a `cookie` of its own name.
    pub fn new(file: Option<PathBuf>, cookie: &'static str) -> Self {
        Self { file, cookie, sessions: Mutex::default(), one_at_a_time: tokio::sync::Mutex::default() }
    }

    /// Whether there can be anyone who may do more than look.
    pub fn is_possible(&self) -> bool {
        self.file.is_some()
    }

    /// Why the token cannot be used.
    pub fn trouble(&self) -> Option<String> {
        let error = read(self.file.as_deref()?).err()?;
        Some(format!("nobody can sign in to the dashboard: {error:#}"))
    }

    /// Whether a request comes from someone who may do more than look.
    pub async fn is_allowed(&self, headers: &HeaderMap, now_ms: u64) -> bool {
        if self.is_signed_in(headers, now_ms) {
            return true;
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match bearer.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) => self.is_token(token).await,
            None => false,
        }
    }

    /// Whether a browser showed the token before.
    pub fn is_signed_in(&self, headers: &HeaderMap, now_ms: u64) -> bool {
        let Some(digest) = self.cookie_of(headers) else { return false };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|(_, end_ms)| *end_ms > now_ms);
        sessions.iter().any(|(session, _)| *session == digest)
    }

    fn cookie_of(&self, headers: &HeaderMap) -> Option<Blake3> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, value)| Blake3::of(value.as_bytes()))
    }

    /// Whether this is the token. Digests are compared, so the time that it takes tells nothing of the token.
    async fn is_token(&self, token: &str) -> bool {
        let Some(file) = &self.file else { return false };
        let _one = self.one_at_a_time.lock().await;
        let is_it =
            read(file).is_ok_and(|right| Blake3::of(right.as_bytes()) == Blake3::of(token.trim().as_bytes()));
        if !is_it {
            tracing::warn!("someone showed the dashboard a wrong token");
            tokio::time::sleep(PAUSE).await;
        }
        is_it
    }

    /// The cookie for a browser that shows the token.
    pub async fn sign_in(&self, token: &str, now_ms: u64) -> anyhow::Result<String> {
        if !self.is_token(token).await {
            bail!("this is not the token");
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).context("the system gives no random numbers")?;
        let value = Blake3(secret).to_string();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        while sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back((Blake3::of(value.as_bytes()), now_ms + SESSION_MS));
        let age_s = SESSION_MS / 1000;
        Ok(format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict", self.cookie))
    }

    /// Forgets a browser; the cookie that takes its cookie away.
    pub fn sign_out(&self, headers: &HeaderMap) -> String {
        if let Some(digest) = self.cookie_of(headers) {
            self.sessions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(session, _)| *session != digest);
        }
        format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict", self.cookie)
    }
}

/// The token in a file that nobody else may read.
fn read(file: &Path) -> anyhow::Result<String> {
    let data = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    secret::check(file)?;
    if data.len() > 1024 {
        bail!("{} has {} octets; a token has {TOKEN_CHARS:?} characters", file.display(), data.len());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let token = text.trim();
    if !TOKEN_CHARS.contains(&token.chars().count()) {
        bail!("{} holds {} characters; a token has {TOKEN_CHARS:?}", file.display(), token.chars().count());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_who_knows_the_token_gets_in() {
        let dir = std::env::temp_dir().join(format!("diodesync-access-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("token");
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&file, "correct horse battery\n").unwrap();
        mode(0o640);
        let access = Access::new(Some(file.clone()), "c");
        assert!(access.trouble().unwrap().contains("chmod 600"));
        assert!(access.sign_in("correct horse battery", 0).await.is_err(), "others could read the file");
        mode(0o600);
        assert_eq!(access.trouble(), None);
        assert!(access.sign_in("wrong horse battery", 0).await.is_err());
        assert!(access.sign_in("", 0).await.is_err());
        let cookie = access.sign_in("correct horse battery", 0).await.unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"));
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
        };
        let shown = headers("cookie", &format!("a=b; {}", cookie.split(';').next().unwrap()));
        assert!(access.is_allowed(&shown, 1).await);
        assert!(!access.is_allowed(&shown, SESSION_MS + 1).await, "it does not end");
        assert!(access.is_allowed(&headers("authorization", "Bearer correct horse battery"), 1).await);
        assert!(!access.is_allowed(&headers("authorization", "Bearer correct horse"), 1).await);
        assert!(!access.is_allowed(&HeaderMap::new(), 1).await);

        let cookie = access.sign_in("correct horse battery", 0).await.unwrap();
        let shown = headers("cookie", cookie.split(';').next().unwrap());
        access.sign_out(&shown);
        assert!(!access.is_allowed(&shown, 1).await);
        std::fs::write(&file, "short").unwrap();
        assert!(access.trouble().unwrap().contains("holds 5 characters"));
        assert!(!Access::new(None, "c").is_allowed(&headers("authorization", "Bearer "), 1).await);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
