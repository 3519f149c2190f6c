//! The published packages, as apt reads an archive ([`crate::apt`]).

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diodesync::id::Sha256;

use super::html::Page;
use super::site::Site;
use super::{Asked, Gateway, blob, not_found};

/// Where the client files have apt look for the archive's key.
const KEY_FILE: &str = "/etc/apt/keyrings/diodesync.asc";

/// `/apt/…`
pub async fn file(asked: Asked, Path(path): Path<String>) -> Response {
    if let Some(rest) = path.strip_prefix("pool/") {
        let digest = rest.split_once('/').and_then(|(digest, _)| digest.parse::<Sha256>().ok());
        return digest.map_or_else(not_found, |digest| blob::respond(&asked, digest));
    }
    let Some(content) = asked.site.apt().file(&path) else { return not_found() };
    let kind = match path.rsplit('/').next() {
        Some("Release.gpg") => "application/pgp-signature",
        _ => "text/plain; charset=utf-8",
    };
    let body = if asked.is_head { Bytes::new() } else { content.clone() };
    let length = content.len().to_string();
    ([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_LENGTH, length)], body).into_response()
}

/// `/replay/…`
pub async fn replayed(asked: Asked, Path(path): Path<String>) -> Response {
    let found = asked.site.apt().replays().values().find_map(|replay| replay.file(&path));
    found.map_or_else(not_found, |digest| blob::respond(&asked, digest))
}

/// `/client/apt-key.asc`
pub async fn key(asked: Asked) -> Response {
    ([(header::CONTENT_TYPE, "application/pgp-keys")], asked.site.apt().key().to_owned()).into_response()
}

/// `/client/diodesync.sources`
pub async fn sources(axum::extract::State(gateway): axum::extract::State<Gateway>, asked: Asked) -> Response {
    let base = gateway.client.base(&asked.headers);
    let mut out = format!(
        "# For apt: put it into /etc/apt/sources.list.d/, and {base}/client/apt-key.asc into {KEY_FILE}.\n"
    );
    if asked.site.apt().suites().is_empty() {
        out.push_str("# No package is published yet; fetch this file again when one is.\n");
    }
    for (suite, components) in asked.site.apt().suites() {
        let components = components.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        out.push_str(&format!(
            "\nTypes: deb\nURIs: {base}/apt\nSuites: {suite}\nComponents: {components}\nSigned-By: {KEY_FILE}\n"
        ));
    }
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, out).into_response()
}

/// `/client/replay.sources`
pub async fn replay_sources(
    axum::extract::State(gateway): axum::extract::State<Gateway>,
    asked: Asked,
) -> Response {
    let base = gateway.client.base(&asked.headers);
    let mut out = "# For apt: suites that are here whole, as their archives signed them.\n".to_owned();
    let replays = asked.site.apt().replays();
    if replays.is_empty() {
        out.push_str("# None is; /client/diodesync.sources has everything that is published.\n");
    }
    for (suite, replay) in replays {
        let key_file = format!("/etc/apt/keyrings/{}.asc", suite.replace('/', "-"));
        out.push_str(&format!("\n# Put {base}/replay/{suite}/key.asc into {key_file}, if you trust it.\n"));
        for (component, architectures) in replay.components() {
            let architectures = architectures.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            // Descriptions in other languages are not here.
            out.push_str(&format!(
                "Types: deb\nURIs: {base}/replay/{suite}\nSuites: {suite}\nComponents: {component}\n\
                 Architectures: {architectures}\nLanguages: none\nSigned-By: {key_file}\n\n"
            ));
        }
    }
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, out).into_response()
}

/// What the client page says of apt.
pub fn section(page: &mut Page, site: &Site, base: &str) {
    page.raw("<h2>apt</h2>\n<p>");
    if site.apt().suites().is_empty() {
        page.raw("No package is published yet.</p>\n");
        return;
    }
    page.raw("The archive is signed with this site's own ")
        .link("/client/apt-key.asc", "key")
        .raw(".</p>\n<pre>");
    page.text(&format!(
        "mkdir -p /etc/apt/keyrings\n\
         curl -o {KEY_FILE} {base}/client/apt-key.asc\n\
         curl -o /etc/apt/sources.list.d/diodesync.sources {base}/client/diodesync.sources\n\
         apt-get update"
    ));
    page.raw("</pre>\n");
    if !site.apt().replays().is_empty() {
        let suites = site.apt().replays().keys().cloned().collect::<Vec<_>>().join(", ");
        page.raw("<p>Here whole, as their archives signed them, without this site's key: ").text(&suites);
        page.raw(". See ").link("/client/replay.sources", "replay.sources").raw(".</p>\n");
    }
}
