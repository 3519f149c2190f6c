//! Markup that cannot be injected into: what stands in this program is markup, and everything else is escaped.

use std::fmt::{Display, Write};

/// Markup in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// Adds markup: only what stands in this program has that lifetime.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, in content or in a quoted attribute.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }

    /// Adds what is markup already.
    pub fn add(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// The markup.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Writes literals as markup and what stands in parentheses as text: `put!(html, "<b>" (name) "</b>")`.
#[macro_export]
macro_rules! put {
    ($out:expr, $($part:tt)*) => {{
        let out: &mut $crate::dashboard::Html = &mut *$out;
        $($crate::put_part!(out, $part);)*
    }};
}

/// One part of [`put!`].
#[doc(hidden)]
#[macro_export]
macro_rules! put_part {
    ($out:ident, $markup:literal) => {
        $out.raw($markup)
    };
    ($out:ident, ($text:expr)) => {
        $out.text(&$text)
    };
}

/// Percent-encodes all of a name but the unreserved characters of RFC 3986, so that it is one component of a path or of
/// a query and nothing else.
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for octet in name.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(octet))
            }
            _ => {
                let _ = write!(out, "%{octet:02X}");
            }
        }
    }
    out
}

/// Seconds since 1970 as a person reads them.
pub fn time(time_s: u64) -> String {
    let time = i64::try_from(time_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(
        || "at an unknown time".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// A count with its thousands apart.
pub fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut html = Html::default();
        let name = "\"><script>alert('x')</script>&";
        put!(&mut html, "<a href=\"" (name) "\">" (7) "</a>");
        let expected = "<a href=\"&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;\">7</a>";
        assert_eq!(html.as_str(), expected);
        assert_eq!(encode("javascript:a b/ä?#%&"), "javascript%3Aa%20b%2F%C3%A4%3F%23%25%26");
    }

    #[test]
    fn numbers_are_readable() {
        let plain = |n: u64| count(n).replace('\u{202f}', " ");
        assert_eq!([plain(0), plain(999), plain(1000), plain(1_234_567)], ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(time(0), "1970-01-01 00:00 UTC");
    }
}
