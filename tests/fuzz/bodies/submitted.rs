//! What is handed to the sender.

use diodesync::id::Sha256;
use diodesync::limits::CONTROL_BYTES_MAX;
use diodesync::release::package::{Control, stanza_bytes_max};

use super::choice;

/// A provider's zip.
pub fn zip(data: &[u8]) {
    let (h1, is_provider) = diode_sender::fuzz::provider_zip(data, "demo");
    if let (Ok(first), Ok(())) = (&h1, &is_provider) {
        assert_eq!(diode_sender::fuzz::provider_zip(data, "demo").0.as_ref().ok(), Some(first));
    }
}

/// A submission's frames, in chunks of a length that the first octet says.
pub fn submission(data: &[u8]) {
    let Some((length, rest)) = choice(data, 255) else { return };
    let chunks = rest.chunks(usize::from(length) * 16 + 1);
    match diode_sender::fuzz::submission(chunks) {
        Ok(indexes) => {
            for octets in indexes {
                let index = diodesync::release::Index::parse(&octets).expect("what is staged is an index");
                assert_eq!(index.encode(), octets);
            }
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

/// A Debian package, or a control file that one may hold.
pub fn deb(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 2) else { return };
    let control = match kind {
        0 => match diode_sender::fuzz::control_file(rest) {
            Ok(control) => control,
            Err(error) => return assert!(!error.is_empty()),
        },
        _ => rest.to_vec(),
    };
    assert!(kind == 1 || control.len() as u64 <= CONTROL_BYTES_MAX, "a bomb");
    let Ok(control_read) = Control::parse(&control) else { return };
    let mut stanza = Vec::new();
    control_read.put_stanza("pool/x", u64::MAX, &Sha256([0xab; 32]), &mut stanza);
    assert!(stanza.len() as u64 <= stanza_bytes_max(control.len() as u64));
    // An index is read stanza by stanza: nothing in one begins another.
    let text = std::str::from_utf8(&stanza).expect("what was read is text");
    assert!(text.ends_with("\n\n") && !text.trim_end_matches('\n').contains("\n\n"), "{text:?}");
    assert!(!text.contains('\r') && !text.contains('\0'), "{text:?}");
}
