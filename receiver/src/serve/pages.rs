//! The front page: what is published, and where to go from here.

use std::collections::BTreeSet;

use axum::response::Response;
use diodesync::release::{ArtifactName, Index};

use super::Asked;
use super::html::{Page, size, time};

/// `/`
pub async fn home(asked: Asked) -> Response {
    let site = &asked.site;
    let mut page = Page::new("Diodesync gateway");
    page.raw("<p>").link("/client/", "Set up a client").raw(" · ").link("/files/", "Files");
    page.raw(" · ").link("/files.sha256", "digests of all files").raw("</p>\n<h2>Published</h2>\n");
    if site.releases().is_empty() {
        page.raw("<p>Nothing is published yet.</p>\n");
        return page.finish();
    }
    page.raw("<table><tr><th>channel</th><th class=\"n\">release</th><th>cut</th><th class=\"n\">files</th>");
    page.raw("<th class=\"n\">provider versions</th><th class=\"n\">size</th></tr>\n");
    for index in site.releases() {
        let (files, providers) = counts(index);
        page.raw("<tr><td>").text(index.channel.as_str());
        page.raw("</td><td class=\"n\">").text(&index.number.to_string());
        page.raw("</td><td>").text(&time(index.created_s));
        page.raw("</td><td class=\"n\">").text(&files.to_string());
        page.raw("</td><td class=\"n\">").text(&providers.to_string());
        page.raw("</td><td class=\"n\">").text(&size(index.blob_bytes())).raw("</td></tr>\n");
    }
    page.raw("</table>\n");
    if !site.providers().is_empty() {
        page.raw("<h2>Terraform providers</h2>\n<table><tr><th>source</th><th>versions</th><th>platforms</th></tr>\n");
        for (address, versions) in site.providers() {
            let platforms: BTreeSet<_> =
                versions.values().flat_map(|provider| provider.archives.keys()).collect();
            page.raw("<tr><td><code>").text(&address.to_string()).raw("</code></td><td>");
            for (at, (version, provider)) in versions.iter().enumerate() {
                page.raw(if at == 0 { "" } else { ", " }).text(version.as_str());
                page.raw(if provider.proof.is_none() { " (without proof: mirror only)" } else { "" });
            }
            page.raw("</td><td>");
            for (at, platform) in platforms.into_iter().enumerate() {
                page.raw(if at == 0 { "" } else { ", " }).text(&platform.to_string());
            }
            page.raw("</td></tr>\n");
        }
        page.raw("</table>\n");
    }
    page.finish()
}

/// Files and provider versions of a release.
fn counts(index: &Index) -> (usize, usize) {
    let files = index.artifacts.keys().filter(|name| matches!(name, ArtifactName::File(_))).count();
    (files, index.artifacts.len() - files)
}
