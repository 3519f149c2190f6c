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
    page.raw(
        "<th class=\"n\">provider versions</th><th class=\"n\">modules</th><th class=\"n\">images</th><th class=\"n\">packages</th>",
    );
    page.raw("<th class=\"n\">size</th></tr>\n");
    for index in site.releases() {
        page.raw("<tr><td>").text(index.channel.as_str());
        page.raw("</td><td class=\"n\">").text(&index.number.to_string());
        page.raw("</td><td>").text(&time(index.created_s));
        for count in counts(index) {
            page.raw("</td><td class=\"n\">").text(&count.to_string());
        }
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
    if !site.modules().is_empty() {
        page.raw("<h2>Terraform modules</h2>\n<table><tr><th>source</th><th>versions</th></tr>\n");
        for (address, versions) in site.modules() {
            page.raw("<tr><td><code>").text(&address.to_string()).raw("</code></td><td>");
            for (at, version) in versions.keys().enumerate() {
                page.raw(if at == 0 { "" } else { ", " }).text(version.as_str());
            }
            page.raw("</td></tr>\n");
        }
        page.raw("</table>\n");
    }
    if site.images().repositories().next().is_some() {
        page.raw("<h2>Container images</h2>\n<table><tr><th>repository</th><th>tags</th></tr>\n");
        for (name, repository) in site.images().repositories() {
            page.raw("<tr><td><code>").text(&name.to_string()).raw("</code></td><td>");
            // Signatures go with what they sign.
            let tags = repository.tags().keys().filter(|tag| !tag.starts_with("sha256-"));
            for (at, tag) in tags.enumerate() {
                page.raw(if at == 0 { "" } else { ", " }).text(tag);
            }
            page.raw("</td></tr>\n");
        }
        page.raw("</table>\n");
    }
    page.finish()
}

/// Files, provider versions, module versions, images and packages of a release.
fn counts(index: &Index) -> [usize; 5] {
    index.artifacts.keys().fold([0; 5], |[files, providers, modules, images, packages], name| match name {
        ArtifactName::File(_) => [files + 1, providers, modules, images, packages],
        ArtifactName::Provider(..) => [files, providers + 1, modules, images, packages],
        ArtifactName::Module(..) => [files, providers, modules + 1, images, packages],
        ArtifactName::Image(..) => [files, providers, modules, images + 1, packages],
        ArtifactName::Package(_) => [files, providers, modules, images, packages + 1],
    })
}
