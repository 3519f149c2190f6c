//! Who may ask: a page of another site that a browser of this host has open must neither read nor do anything here.
//!
//! | attack | what stops it |
//! |---|---|
//! | a name of the attacker's that resolves to this host (DNS rebinding) | `Host` must be a name that was meant for here |
//! | a page of another origin that asks | `Origin` must be this one; `Sec-Fetch-Site` must not say that it is another |
//! | a form of another origin that posts | a POST without `Origin` needs the token itself |
//! | markup in a name that came over the link | escaped, and the content security policy runs nothing but our script |

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

/// Octets of a path with its query.
const URI_BYTES_MAX: usize = 2048;

/// What a browser may do with what is answered.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A request that is not answered, and why.
pub type Refusal = (StatusCode, String);

/// Judges a request by its line and header. `names` are those that are meant for here beside the loopback's, in lower
/// case.
pub fn judge(method: &Method, uri: &Uri, headers: &HeaderMap, names: &[String]) -> Result<(), Refusal> {
    let no = |status, why: &str| Err((status, why.to_owned()));
    if !matches!(*method, Method::GET | Method::HEAD | Method::POST) {
        return no(StatusCode::METHOD_NOT_ALLOWED, "expected GET, HEAD or POST");
    }
    if uri.path_and_query().map_or(0, |path| path.as_str().len()) > URI_BYTES_MAX {
        return no(StatusCode::URI_TOO_LONG, "the path has more than 2048 octets");
    }
    let is_plain = |component: &str| {
        let lower = component.to_ascii_lowercase().replace("%2e", ".");
        lower != ".."
            && lower != "."
            && !lower.contains("%2f")
            && !lower.contains("%5c")
            && !lower.contains("%00")
    };
    if !uri.path().split('/').all(is_plain) || uri.path().contains('\\') {
        return no(StatusCode::BAD_REQUEST, "the path has a component that is no name, like \"..\"");
    }
    let host = one(headers, header::HOST)?;
    let Some(host) = host.or(uri.authority().map(|authority| authority.as_str())) else {
        return no(StatusCode::BAD_REQUEST, "the request names no Host");
    };
    if uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host)) {
        return no(StatusCode::BAD_REQUEST, "the request names two hosts");
    }
    if !is_meant(host, names) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            format!("this dashboard is not {host:?}; if it is to be, add the name to hosts in [dashboard]"),
        ));
    }
    let origin = one(headers, header::ORIGIN)?;
    let authority =
        |origin: &str| origin.split_once("://").map(|(_, authority)| authority.to_ascii_lowercase());
    if origin.is_some_and(|origin| authority(origin) != Some(host.to_ascii_lowercase())) {
        return no(StatusCode::FORBIDDEN, "the request comes from a page of another origin");
    }
    let fetch = |name: &'static str| one(headers, HeaderName::from_static(name));
    if matches!(fetch("sec-fetch-site")?, Some("cross-site" | "same-site")) {
        // A link on another page may be followed; nothing else.
        let is_followed =
            fetch("sec-fetch-mode")? == Some("navigate") && fetch("sec-fetch-dest")? == Some("document");
        if *method == Method::POST || !is_followed {
            return no(StatusCode::FORBIDDEN, "the request comes from a page of another site");
        }
    }
    if *method == Method::POST && origin.is_none() && !headers.contains_key(header::AUTHORIZATION) {
        return no(
            StatusCode::FORBIDDEN,
            "a POST without Origin needs the token: Authorization: Bearer TOKEN",
        );
    }
    Ok(())
}

/// The value of a field that must not come twice.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(&name).iter();
    let (first, second) = (values.next(), values.next());
    let text = first.map(HeaderValue::to_str).transpose();
    match (text, second) {
        (Ok(text), None) => Ok(text),
        _ => Err((StatusCode::BAD_REQUEST, format!("the request's {name} is not one text"))),
    }
}

/// Whether a `Host` is a name of this host's own, or one that the configuration gives. Any port: it may be forwarded.
fn is_meant(host: &str, names: &[String]) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => name,
            Some((name, port)) if port.strip_prefix(':').is_some_and(is_port) => name,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1") || names.contains(&name)
}

/// Adds to every answer what browsers are to keep to.
pub fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With no-referrer a browser says of its own forms that their origin is "null" (Fetch, append a request Origin).
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status with which a request is refused; 200 if it is not.
    fn ask(method: Method, uri: &str, fields: &[(&'static str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let names = ["gate.example".to_owned()];
        judge(&method, &uri.parse().unwrap(), &headers, &names)
            .map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_names_that_are_meant_are_answered() {
        for (host, status) in [
            ("localhost", 200),
            ("LocalHost:7480", 200),
            ("127.0.0.1:9999", 200),
            ("[::1]:7480", 200),
            ("gate.example", 200),
            ("gate.example:8443", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example:7480", 421),
            ("localhost:evil", 421),
            ("[::1]evil", 421),
            ("127.0.0.2", 421),
            ("", 421),
        ] {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), status, "{host}");
        }
        assert_eq!(ask(Method::GET, "/", &[]), 400);
        assert_eq!(ask(Method::GET, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(ask(Method::GET, "http://evil.example/", &[("host", "localhost")]), 400);
        assert_eq!(ask(Method::GET, "http://evil.example/", &[]), 421);
    }

    #[test]
    fn pages_of_other_sites_get_nothing() {
        let with = |fields: &[(&'static str, &str)], method: Method| {
            let mut all = vec![("host", "localhost:7480")];
            all.extend(fields);
            ask(method, "/", &all)
        };
        for (fields, get, post) in [
            (vec![("origin", "http://localhost:7480")], 200, 200),
            (vec![("origin", "https://localhost:7480")], 200, 200),
            (vec![("origin", "http://localhost:3000")], 403, 403),
            (vec![("origin", "http://evil.example")], 403, 403),
            (vec![("origin", "null")], 403, 403),
            (vec![], 200, 403),
            (vec![("authorization", "Bearer x")], 200, 200),
            (vec![("sec-fetch-site", "same-origin"), ("origin", "http://localhost:7480")], 200, 200),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], 403, 403),
            (
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
                200,
                403,
            ),
            (
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
                403,
                403,
            ),
            (vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], 403, 403),
        ] {
            assert_eq!(with(&fields, Method::GET), get, "GET {fields:?}");
            assert_eq!(with(&fields, Method::POST), post, "POST {fields:?}");
        }
        assert_eq!(with(&[], Method::DELETE), 405);
    }

    #[test]
    fn paths_lead_nowhere_else() {
        for (path, status) in [
            ("/releases/main/1", 200),
            ("/a..b/...", 200),
            ("/../etc/passwd", 400),
            ("/releases/..", 400),
            ("/releases/%2e%2E/x", 400),
            ("/releases/..%2f..%2fetc", 400),
            ("/a%5cb", 400),
            ("/a%00", 400),
        ] {
            assert_eq!(ask(Method::GET, path, &[("host", "localhost")]), status, "{path}");
        }
        assert_eq!(ask(Method::GET, &format!("/{}", "x".repeat(2048)), &[("host", "localhost")]), 414);
    }
}
