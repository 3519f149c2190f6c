//! `[producers]` and `[[producer]]` of `sender.toml`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use diodesync::id::Channel;
use diodesync::quantity::{parse_bytes, parse_duration};
use diodesync::release::glob::GLOB_BYTES_MAX;
use diodesync::release::policy::Kind;
use diodesync_control::table::Table;
use toml::de::DeTable;

use super::identity::Pin;
use super::rights::Producer;
use crate::sources::parse_name;

/// Producers of a sender.
const PRODUCERS_MAX: usize = 1000;
const CONNECTIONS_DEFAULT: u64 = 64;
const STALL_DEFAULT: Duration = Duration::from_secs(60);
const KEEP_DEFAULT: Duration = Duration::from_secs(86_400);
const BYTES_MAX_DEFAULT: u64 = 10_000_000_000;
const BYTES_PER_DAY_DEFAULT: u64 = 50_000_000_000;

/// `[producers]`: where they are heard, and what all of them get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub listen: SocketAddr,
    /// Connections at once.
    pub connections_max: usize,
    /// Time in which something must come of what was announced.
    pub stall_max: Duration,
    /// How long a blob that has come in part is kept.
    pub keep_parts: Duration,
}

/// Both tables of a configuration that is TOML; without `[producers]` nobody is heard.
pub fn parse(text: &str) -> anyhow::Result<Option<(Listen, Vec<Producer>)>> {
    let document = DeTable::parse(text)?;
    let listen = match Table::one_of(text, document.get_ref(), "producers")? {
        Some(table) => Some(parse_listen(table)?),
        None => None,
    };
    let mut producers: Vec<Producer> = Vec::new();
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for table in Table::all_of(text, document.get_ref(), "producer")? {
        if listen.is_none() {
            bail!(
                table
                    .error_at("", "a [[producer]] is heard where [producers] says listen = \"ADDRESS:PORT\"")
            );
        }
        producers.push(parse_producer(table, &mut names, &mut keys)?);
    }
    if producers.len() > PRODUCERS_MAX {
        bail!("expected at most {PRODUCERS_MAX} [[producer]], found {}", producers.len());
    }
    Ok(listen.map(|listen| (listen, producers)))
}

fn parse_listen(mut table: Table<'_>) -> anyhow::Result<Listen> {
    let listen = Listen {
        listen: table.required("listen", |text| {
            text.parse().map_err(|_| format!("expected ADDRESS:PORT, like 0.0.0.0:7443, found {text:?}"))
        })?,
        connections_max: table.number("connections_max", 1..=10_000)?.unwrap_or(CONNECTIONS_DEFAULT) as usize,
        stall_max: table.parsed("stall_max", parse_some_duration)?.unwrap_or(STALL_DEFAULT),
        keep_parts: table.parsed("keep_parts", parse_some_duration)?.unwrap_or(KEEP_DEFAULT),
    };
    table.finish("[producers]")?;
    Ok(listen)
}

fn parse_some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err(format!("expected 1s or more, found {text:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_producer(
    mut table: Table<'_>,
    names: &mut BTreeSet<String>,
    keys: &mut BTreeSet<Pin>,
) -> anyhow::Result<Producer> {
    let must = |found: Option<Vec<_>>, table: &Table<'_>, key: &str, like: &str| match found {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(table.error_at(key, format!("{key}: expected what the producer may submit, like {like}"))),
    };
    let name = table.required("name", parse_name)?;
    if !names.insert(name.clone()) {
        bail!(table.error_at("name", format!("two producers are named {name}; give each a name of its own")));
    }
    let key: Pin = table.required("key", str::parse)?;
    if !keys.insert(key) {
        bail!(table.error_at("key", "two producers have this key; give each one of its own"));
    }
    let patterns = table.list("names", parse_pattern)?;
    let kinds: Vec<Kind> = match table.list("kinds", str::parse::<Kind>)? {
        Some(kinds) if !kinds.is_empty() => kinds,
        _ => bail!(table.error_at("kinds", "kinds: expected what the producer may submit, like [\"file\"]")),
    };
    let producer = Producer {
        channels: table.list("channels", str::parse)?.unwrap_or_else(|| vec![Channel::main()]),
        kinds,
        names: must(patterns, &table, "names", "[\"tools/*\"]")?,
        unsigned: table.flag("unsigned", false)?,
        bytes_max: table.parsed("bytes_max", parse_bytes)?.unwrap_or(BYTES_MAX_DEFAULT),
        bytes_per_day: table.parsed("bytes_per_day", parse_bytes)?.unwrap_or(BYTES_PER_DAY_DEFAULT),
        key,
        name,
    };
    table.finish("a [[producer]]")?;
    Ok(producer)
}

fn parse_pattern(text: &str) -> Result<String, String> {
    match text.len() {
        1..=GLOB_BYTES_MAX => Ok(text.to_owned()),
        found => Err(format!("expected a pattern of 1 to {GLOB_BYTES_MAX} octets, found {found}")),
    }
}

#[cfg(test)]
mod tests {
    use diodesync::id::Sha256;

    use super::*;

    const LISTEN: &str = "[producers]\nlisten = '127.0.0.1:7443'\n";

    fn producer(name: &str) -> String {
        let key = Pin(Sha256::of(name.as_bytes()));
        format!(
            "[[producer]]\nname = '{name}'\nkey = '{key}'\nkinds = ['file', 'image']\nnames = ['tools/*']\n"
        )
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        assert_eq!(parse("").unwrap(), None);
        let (listen, producers) = parse(&format!("{LISTEN}{}", producer("ci"))).unwrap().unwrap();
        assert_eq!((listen.connections_max, listen.stall_max.as_secs()), (64, 60));
        let ci = &producers[0];
        assert_eq!((ci.channels.as_slice(), ci.unsigned), ([Channel::main()].as_slice(), false));
        assert_eq!((ci.bytes_max, ci.bytes_per_day), (BYTES_MAX_DEFAULT, BYTES_PER_DAY_DEFAULT));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let one = producer("ci");
        for (text, expected) in [
            (
                format!("{LISTEN}{one}nmaes = ['x']\n"),
                "line 8, column 1: a [[producer]] has no key `nmaes`; `names`",
            ),
            (
                format!("{LISTEN}conections_max = 2\n"),
                "line 3, column 1: [producers] has no key `conections_max`",
            ),
            ("[producers]\nlisten = '7443'\n".to_owned(), "line 2, column 10: listen: expected ADDRESS:PORT"),
            (format!("{LISTEN}stall_max = '0s'\n"), "line 3, column 13: stall_max: expected 1s or more"),
            (one.clone(), "line 1, column 1: a [[producer]] is heard where [producers] says listen"),
            (format!("{LISTEN}{one}{one}"), "two producers are named ci"),
            (format!("{LISTEN}{one}{}", one.replace("'ci'", "'ci2'")), "two producers have this key"),
            (
                format!("{LISTEN}{}", one.replace("'image'", "'imgae'")),
                "line 6, column 18: kinds: expected one of",
            ),
            (
                format!("{LISTEN}{}", one.replace("['tools/*']", "[]")),
                "names: expected what the producer may",
            ),
            (
                format!("{LISTEN}{}", one.replace("'ci'", "'../ci'")),
                "line 4, column 8: name: expected 1 to 32",
            ),
            (format!("{LISTEN}{}", one.replace("sha256:", "")), "line 5, column 7: key: expected a pin"),
            (format!("{LISTEN}{one}bytes_max = '1 lot'\n"), "line 8, column 13: bytes_max: expected a size"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(expected), "{error}\n{text}");
        }
    }
}
