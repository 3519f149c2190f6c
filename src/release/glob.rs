//! Patterns of names: `*` stands for any letters, `?` for one.

/// Letters of the longest pattern.
pub const GLOB_BYTES_MAX: usize = 256;

/// Whether a text is a pattern and not a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a pattern matches all of a name. Takes time for pattern × name at most.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut to) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while to < name.len() {
        match (pattern.get(at), name.get(to)) {
            (Some(b'*'), _) => {
                star = Some((at, to));
                at += 1;
            }
            (Some(letter), Some(found)) if *letter == b'?' || letter == found => {
                at += 1;
                to += 1;
            }
            _ => {
                let Some((stood, taken)) = star else { return false };
                star = Some((stood, taken + 1));
                (at, to) = (stood + 1, taken + 1);
            }
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("v2.*", "v2.1"),
            ("a*b*c", "aXbYbZc"),
            ("?*", "x"),
            ("a?c", "abc"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("a", ""), ("v2.*", "v2"), ("a*b", "abc"), ("a?c", "ac"), ("?", ""), ("*.x", "x")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Where a careless matcher would take for ever.
        assert!(!matches(&format!("{}c", "a*".repeat(100)), &"a".repeat(10_000)));
    }
}
