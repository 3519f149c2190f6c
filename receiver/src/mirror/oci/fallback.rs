//! The referrers tag schema: where a registry lists no referrers, an index under the tag `sha256-HEX` of the subject does
//! (distribution specification 1.1, "Referrers Tag Schema").
//!
//! Others may have added signatures of their own there, so nothing is ever taken out.

use std::collections::BTreeSet;

use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::image::ManifestType;
use serde_json::{Value, json};

/// The index to be pushed: what is there now, what the upstream's own index lists, and `wanted`; `None` if all of it is
/// there. The upstream's index is pushed octet by octet where that is enough.
///
/// # Errors
/// If it would be larger than a manifest can be.
pub fn merge(
    current: Option<&[u8]>,
    published: Option<&[u8]>,
    wanted: &[Value],
) -> Result<Option<Vec<u8>>, String> {
    let list = |octets: Option<&[u8]>| -> Vec<Value> {
        let index: Option<Value> = octets.and_then(|octets| serde_json::from_slice(octets).ok());
        index.and_then(|index| index.get("manifests").and_then(Value::as_array).cloned()).unwrap_or_default()
    };
    let digest = |entry: &Value| entry.get("digest").and_then(Value::as_str).map(str::to_owned);
    let upstream = list(published);
    let mut entries = list(current);
    let mut known: BTreeSet<String> = entries.iter().filter_map(digest).collect();
    let before = entries.len();
    let mut is_upstream_enough = current.is_none() && published.is_some();
    for (entry, is_upstream) in
        upstream.iter().map(|entry| (entry, true)).chain(wanted.iter().map(|entry| (entry, false)))
    {
        if digest(entry).is_some_and(|digest| known.insert(digest)) {
            entries.push(entry.clone());
            is_upstream_enough &= is_upstream;
        }
    }
    if is_upstream_enough {
        return Ok(published.map(<[u8]>::to_vec));
    }
    if current.is_some() && entries.len() == before {
        return Ok(None);
    }
    let index =
        json!({ "schemaVersion": 2, "mediaType": ManifestType::OciIndex.media_type(), "manifests": entries });
    let octets = index.to_string().into_bytes();
    if octets.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(format!(
            "its list of referrers would have {} octets, a manifest has at most {MANIFEST_BYTES_MAX}",
            octets.len()
        ));
    }
    Ok(Some(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Value {
        json!({ "mediaType": "x", "digest": format!("sha256:{name}"), "size": 1 })
    }

    fn index(names: &[&str]) -> Vec<u8> {
        let entries: Vec<Value> = names.iter().map(|name| entry(name)).collect();
        json!({ "schemaVersion": 2, "extra": "of the upstream", "manifests": entries })
            .to_string()
            .into_bytes()
    }

    fn names(octets: &[u8]) -> Vec<String> {
        let index: Value = serde_json::from_slice(octets).unwrap();
        let digest = |entry: &Value| entry["digest"].as_str().unwrap()[7..].to_owned();
        index["manifests"].as_array().unwrap().iter().map(digest).collect()
    }

    #[test]
    fn what_others_added_stays_and_nothing_is_pushed_twice() {
        let published = index(&["a", "b"]);
        // Nothing there: the upstream's own octets, if they are enough.
        assert_eq!(merge(None, Some(&published), &[entry("b")]).unwrap().unwrap(), published);
        assert_eq!(names(&merge(None, Some(&published), &[entry("c")]).unwrap().unwrap()), ["a", "b", "c"]);
        assert_eq!(names(&merge(None, None, &[entry("c")]).unwrap().unwrap()), ["c"]);
        // All there already, with one of the site's own.
        let there = index(&["site", "b", "a"]);
        assert_eq!(merge(Some(&there), Some(&published), &[entry("b")]).unwrap(), None);
        assert_eq!(
            names(&merge(Some(&there), None, &[entry("c")]).unwrap().unwrap()),
            ["site", "b", "a", "c"]
        );
        // What is there is no index.
        assert_eq!(names(&merge(Some(b"{}"), None, &[entry("c")]).unwrap().unwrap()), ["c"]);
        let long = json!({ "digest": "sha256:x", "annotations": { "a": "x".repeat(5 << 20) } });
        assert!(merge(None, None, &[long]).is_err());
    }
}
