//! Pages that cannot be injected into: markup is what stands in this program, and everything else is escaped.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use diodesync_control::dashboard::Html;
pub use diodesync_control::dashboard::{encode, time};

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
pub struct Page(Html);

impl Page {
    /// Starts a page with its title, which is its heading too.
    pub fn new(title: &str) -> Self {
        let mut page = Self(Html::default());
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
        self.0.raw(markup);
        self
    }

    /// Adds text, in content or in a quoted attribute.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.0.text(text);
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
        (headers, self.0.into_string()).into_response()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut page = Page::new("<b>");
        page.link("\"><script>", "'&");
        assert!(page.0.as_str().contains("<title>&lt;b&gt;</title>"), "{}", page.0.as_str());
        let ours = page.0.as_str();
        assert!(ours.ends_with("<a href=\"&quot;&gt;&lt;script&gt;\">&#39;&amp;</a>"), "{ours}");
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
    }
}
