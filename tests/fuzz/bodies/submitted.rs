//! What is handed to the sender.

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
