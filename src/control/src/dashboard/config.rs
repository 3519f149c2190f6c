//! `[dashboard]` of either side's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Where the dashboard is, and who may do more than look.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens; none where the configuration does not say, so that each side has its own default.
    #[serde(deserialize_with = "listen")]
    pub listen: Option<Listen>,
    /// The file with the token that lets a person do more than look; only its owner may read it.
    pub token_file: Option<PathBuf>,
    /// Further names under which browsers reach it, as behind a proxy.
    pub hosts: Vec<String>,
}

fn listen<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Listen>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Where a dashboard listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// On an address of this host's own.
    Tcp(SocketAddr),
    /// On a socket file, for its owner and group.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err(format!("the socket {text:?} is expected as unix:/ABSOLUTE/PATH")),
            };
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("expected \"127.0.0.1:PORT\", \"unix:PATH\" or \"off\", found {text:?}"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{address} is not an address of this host's own: the dashboard speaks plain HTTP. For others, put a proxy \
                 with TLS and accounts before it, and name it in hosts"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_this_host_alone() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        for good in ["127.0.0.1:7480", "[::1]:7480"] {
            assert_eq!(good.parse(), Ok(Listen::Tcp(good.parse().unwrap())));
        }
        for (bad, expected) in [
            ("0.0.0.0:80", "plain HTTP"),
            ("[::]:80", "plain HTTP"),
            ("192.0.2.1:80", "plain HTTP"),
            ("unix:run/x", "ABSOLUTE"),
            ("localhost:80", "found"),
            ("", "found"),
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
