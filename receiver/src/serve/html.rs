//! Pages that cannot be injected into: markup is what stands in this program, and everything else is escaped.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--dim:#888}\
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
code,pre{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}\
pre{border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;white-space:pre-wrap}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}\
td.n,th.n{text-align:right;white-space:nowrap}td.d{color:var(--dim)}\
nav,footer{color:var(--dim)}a{color:LinkText}";

/// Nothing is loaded and nothing runs; a link may be followed and a file saved.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A page in the making.
#[derive(Debug)]
pub struct Page(String);

impl Page {
    /// Starts a page with its title, which is its heading too.
    pub fn new(title: &str) -> Self {
        let mut page = Self(String::with_capacity(8 * 1024));
        page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
            .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>")
            .text(title)
            .raw("</title><style>")
            .raw(STYLE)
            .raw("</style></head><body>\n<h1>")
            .text(title)
            .raw("</h1>\n");
        page
    }

    /// Adds markup: only what stands in this program has that lifetime.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, in content or in a quoted attribute.
    pub fn text(&mut self, text: &str) -> &mut Self {
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
        self
    }

    /// Adds a link. `href` is percent-encoded by [`encode`] where it holds names.
    pub fn link(&mut self, href: &str, label: &str) -> &mut Self {
        self.raw("<a href=\"").text(href).raw("\">").text(label).raw("</a>")
    }

    /// Ends the page.
    pub fn finish(mut self) -> Response {
        self.raw("</body></html>\n");
        let headers =
            [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
        (headers, self.0).into_response()
    }
}

/// Percent-encodes all of a name but the unreserved characters of RFC 3986, so that it is one component of a path and
/// nothing else.
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for octet in name.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(octet))
            }
            _ => out.push_str(&format!("%{octet:02X}")),
        }
    }
    out
}

/// Octets as a person reads them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be rounded to 1024 is one of the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Seconds since 1970 as a person reads them.
pub fn time(time_s: u64) -> String {
    let time = i64::try_from(time_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(
        || "at an unknown time".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut page = Page::new("<b>");
        page.link("\"><script>", "'&");
        assert!(page.0.contains("<title>&lt;b&gt;</title>"), "{}", page.0);
        assert!(page.0.ends_with("<a href=\"&quot;&gt;&lt;script&gt;\">&#39;&amp;</a>"), "{}", page.0);
        assert_eq!(encode("javascript:a b/ä?#%"), "javascript%3Aa%20b%2F%C3%A4%3F%23%25");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(time(0), "1970-01-01 00:00 UTC");
    }
}
