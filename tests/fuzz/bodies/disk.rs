//! What a disk gives back, garbled or not: facts, journal records, names of files; and what roles tell each other.

use diodesync::id::Channel;
use diodesync::journal::{CheckedBlob, HeldBlock, Key, Progress, Record};
use diodesync::pack::fact;
use diodesync::trust::TrustState;

use super::choice;

/// A fact, a journal record, a fact's content, the name of a file of symbols, or a message between roles.
pub fn disk(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 5) else { return };
    match kind {
        0 => {
            if let Ok(content) = fact::parse(rest) {
                assert_eq!(
                    [fact::head(content).as_bytes(), content].concat(),
                    rest,
                    "one fact has one encoding"
                );
            }
        }
        1 => journal(rest),
        2 => {
            if let Ok(state) = serde_json::from_slice::<TrustState>(rest) {
                let _ = state.expires_s();
            }
        }
        3 => {
            if let Ok(name) = std::str::from_utf8(rest) {
                diode_receiver::fuzz::partial_name(name);
            }
        }
        _ => drop(diode_receiver::fuzz::kinds_of_message(rest)),
    }
}

fn journal(octets: &[u8]) {
    fn again<T: Record + PartialEq + std::fmt::Debug>(octets: &[u8]) {
        if let Ok(record) = T::from_value(octets) {
            let value = record.to_value().expect("what was read can be written");
            assert_eq!(T::from_value(&value).as_ref(), Ok(&record));
        }
    }
    again::<HeldBlock>(octets);
    again::<Progress>(octets);
    again::<CheckedBlob>(octets);
    if let Some(id) = Key::block_of(octets) {
        assert_eq!(Key::Block(id).encode(), octets);
    }
    if let Some(digest) = Key::checked_of(octets) {
        assert_eq!(Key::Checked(digest).encode(), octets);
    }
    // Kinds do not run into each other.
    let progress = Key::Progress(Channel::main()).encode();
    assert!(Key::block_of(&progress).is_none() && Key::checked_of(&progress).is_none());
}
