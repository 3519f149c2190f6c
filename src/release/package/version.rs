//! The order of Debian's versions (Debian Policy §5.6.12, deb-version(7)).

use std::cmp::Ordering;

/// Compares `[EPOCH:]UPSTREAM[-REVISION]`.
pub fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text| {
        let text: &str = text;
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    };
    let ((epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b)) = (parts(a), parts(b));
    by_parts(epoch_a, epoch_b)
        .then_with(|| by_parts(upstream_a, upstream_b))
        .then_with(|| by_parts(revision_a, revision_b))
}

/// Text without digits and numbers in turn.
fn by_parts(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (x, y) = (a.first().copied(), b.first().copied());
            let is_letter = |octet: Option<u8>| octet.is_some_and(|octet| !octet.is_ascii_digit());
            if !is_letter(x) && !is_letter(y) {
                break;
            }
            let order = weight(x).cmp(&weight(y));
            if order.is_ne() {
                return order;
            }
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
        }
        let number = |octets: &mut &[u8]| {
            let end = octets.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(octets.len());
            let (digits, rest) = octets.split_at(end);
            *octets = rest;
            digits.iter().copied().skip_while(|digit| *digit == b'0').collect::<Vec<u8>>()
        };
        let (x, y) = (number(&mut a), number(&mut b));
        let order = x.len().cmp(&y.len()).then_with(|| x.cmp(&y));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// A tilde comes before the end, the end before letters, letters before the rest.
fn weight(octet: Option<u8>) -> i32 {
    match octet {
        Some(b'~') => -1,
        None => 0,
        Some(digit) if digit.is_ascii_digit() => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(other) => i32::from(other) + 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_debian() {
        let rising = [
            "0~",
            "0",
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0~rc1",
            "1.0",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-10",
            "1.0a",
            "1.0+dfsg",
            "1.0.1",
            "1.2",
            "1.10",
            "2024a",
            "1:0.1",
            "2:0.1",
        ];
        for (at, low) in rising.iter().enumerate() {
            assert_eq!(compare(low, low), Ordering::Equal, "{low}");
            for high in rising.iter().skip(at + 1) {
                assert_eq!(compare(low, high), Ordering::Less, "{low} < {high}");
                assert_eq!(compare(high, low), Ordering::Greater, "{high} > {low}");
            }
        }
        for (a, b) in [("1.0", "1.0-0"), ("0:1", "1"), ("1.01", "1.1"), ("1.0-", "1.0")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} = {b}");
        }
    }

    /// What dpkg says, where it is.
    #[test]
    fn dpkg_agrees() {
        let all = [
            "1.0~rc1-1",
            "1.0-1",
            "1.0+b1",
            "1.0.0",
            "1:0",
            "0",
            "1.0~~",
            "1.0a-2",
            "12.4+deb12u5",
            "12.4+deb12u10",
            "2.36-9",
        ];
        for a in all {
            for b in all {
                let word = match compare(a, b) {
                    Ordering::Less => "lt",
                    Ordering::Equal => "eq",
                    Ordering::Greater => "gt",
                };
                let said =
                    std::process::Command::new("dpkg").args(["--compare-versions", a, word, b]).status();
                let Ok(said) = said else { return };
                assert!(said.success(), "{a} {word} {b}");
            }
        }
    }
}
