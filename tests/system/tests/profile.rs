//! The profile of Coder: four lines, and where the upstreams are asked for here; a whole site's needs cross and install.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diodesync_system::deb::run;
use diodesync_system::oci::{self, Client, Layout};
use diodesync_system::origin::{Origin, Registry as Terraform};
use diodesync_system::provider::Publisher;
use diodesync_system::registry::Registry;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::terraform::{self, Project};
use diodesync_system::tree;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const PLATFORM: &str = "linux_amd64";

/// Lays a file out, with the list that names it.
fn release(origin: &Origin, folder: &str, files: &[&str], sums: &str) {
    let mut list = String::new();
    for file in files {
        origin.put(&format!("{folder}/{file}"), format!("this is {file}"));
        let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("this is {file}"));
        list.push_str(&format!("{}  {file}\n", tree::hex(&digest)));
    }
    origin.put(&format!("{folder}/{sums}"), list);
}

fn fill(registry: &Registry, work: &Path) {
    let certs = work.join("certs");
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(registry.ca(), certs.join("ca.crt")).unwrap();
    for (at, name) in [
        "coder/coder:v2.27.9",
        "coder/coder:v2.28.1",
        "coder/coder:v2.28.2",
        "coder/coder:v2.29.0",
        "coder/envbuilder:latest",
        "library/postgres:17.2",
        "codercom/code-server:4.9.1",
        "codercom/enterprise-base:ubuntu",
        "hashicorp/terraform:1.13.4",
        "hashicorp/terraform:1.14.0",
    ]
    .into_iter()
    .enumerate()
    {
        let layout = Layout::new(&work.join(format!("layout-{at}"))).unwrap();
        layout.image("it", "amd64", name.as_bytes()).unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--all",
            "--preserve-digests",
            "--quiet",
            "--dest-cert-dir",
        ]);
        skopeo.arg(&certs).arg(format!("oci:{}:it", layout.dir.display()));
        run(skopeo.arg(format!("docker://{}/{name}", registry.host()))).unwrap();
    }
}

fn offer(origin: &Origin, work: &Path) {
    let mut terraform = Terraform::new(origin);
    let publisher = Publisher::new().unwrap();
    let executable = work.join("executable");
    std::fs::write(&executable, b"#!/bin/sh\n").unwrap();
    for (namespace, kind, version) in [
        ("coder", "coder", "2.13.1"),
        ("coder", "envbuilder", "1.0.0"),
        ("kreuzwerker", "docker", "3.6.2"),
        ("hashicorp", "kubernetes", "2.38.0"),
        ("hashicorp", "aws", "6.1.0"),
    ] {
        let source = format!("registry.terraform.io/{namespace}/{kind}");
        let made = publisher.release(&work.join(kind), &source, version, &executable, &[PLATFORM]).unwrap();
        let archives = BTreeMap::from([(PLATFORM, std::fs::read(&made.zips[0]).unwrap())]);
        let (sums, signature) = (std::fs::read(&made.sums).unwrap(), std::fs::read(&made.signature).unwrap());
        terraform.offer(
            (namespace, kind, version),
            &archives,
            &sums,
            &signature,
            &[publisher.armored_key().unwrap()],
        );
    }
    let module = work.join("module");
    std::fs::create_dir_all(&module).unwrap();
    std::fs::write(module.join("main.tf"), "output \"it\" {\n  value = 1\n}\n").unwrap();
    let archive = work.join("module.tar.gz");
    run(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&module).arg(".")).unwrap();
    origin.put("/files/module.tar.gz", std::fs::read(&archive).unwrap());
    for name in [
        "code-server",
        "coder-login",
        "dotfiles",
        "filebrowser",
        "git-clone",
        "git-config",
        "jetbrains",
        "vscode-web",
    ] {
        terraform.offer_module(&format!("coder/{name}/coder"), "1.0.0", "/files/module.tar.gz");
    }
    for version in ["2.28.1", "2.28.2"] {
        let files = [format!("coder_helm_{version}.tgz"), format!("coder_docs_{version}.tgz")];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let folder = format!("/coder/coder/releases/download/v{version}");
        release(origin, &folder, &files, &format!("coder_{version}_checksums.txt"));
    }
    let (folder, sums) = ("/terraform/1.13.4", "terraform_1.13.4_SHA256SUMS");
    release(origin, folder, &["terraform_1.13.4_linux_amd64.zip"], sums);
    origin.put(&format!("{folder}/{sums}.sig"), b"signature".as_slice());
}

#[test]
fn what_a_coder_site_needs_crosses_by_four_lines() {
    if let Err(skip) = oci::find(&["skopeo", "umoci", "openssl", "docker-registry"]) {
        return skip.announce_or_fail_in_ci("a profile pulled from docker-registry");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "profile", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let registry = Registry::start_open(&work.join("registry")).unwrap();
    let origin = Origin::start(&work).unwrap();
    fill(&registry, &work);
    offer(&origin, &work);
    let ca = work.join("both.pem");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    std::fs::write(&ca, format!("{}\n{}", read(&registry.ca()), read(&origin.ca))).unwrap();
    let hosts: String = [
        ("ghcr.io", registry.host()),
        ("docker.io", registry.host()),
        ("registry.terraform.io", origin.host()),
        ("registry.coder.com", origin.host()),
        ("github.com", origin.host()),
        ("releases.hashicorp.com", origin.host()),
    ]
    .into_iter()
    .map(|(host, to)| format!("'{host}' = 'https://{to}', "))
    .collect();
    let text = format!(
        "[[source]]\nprofile = 'coder'\nversion = '2.28.*'\nevery = '1d'\nrelease = false\nca_file = '{}'\n\
         hosts = {{ {} }}\n",
        ca.display(),
        hosts.trim_end_matches(", ")
    );
    let table: toml::Table = text.parse().unwrap();
    pair.low.set(&["source"], table["source"].clone()).unwrap();
    pair.start().unwrap();
    // The clock has begun them; by hand they are waited for, and asked again where one was still under way.
    pair.low.run_within(&["sync"], 4 * MINUTE).unwrap();
    let said = pair.low.run_within(&["sync"], 4 * MINUTE).unwrap().ok().unwrap();
    for source in ["server", "chart", "docs", "images", "providers", "modules", "terraform"] {
        assert!(said.contains(&format!("coder-{source}: 0 new")), "{said}");
    }
    let listed = pair.low.ok(&["list"]).unwrap();
    for name in [
        "image ghcr.io/coder/coder:v2.28.2",
        "image docker.io/library/postgres:17.2",
        "image ghcr.io/coder/envbuilder:latest",
        "file coder/2.28.2/coder_helm_2.28.2.tgz",
        "file coder/2.28.2/coder_docs_2.28.2.tgz",
        "file coder/2.28.2/coder_2.28.2_checksums.txt",
        "file terraform/1.13.4/terraform_1.13.4_linux_amd64.zip",
        "file terraform/1.13.4/terraform_1.13.4_SHA256SUMS.sig",
        "provider registry.terraform.io/hashicorp/aws 6.1.0",
        "module registry.coder.com/coder/code-server/coder 1.0.0",
    ] {
        assert!(listed.contains(name), "{name} is not in:\n{listed}");
    }
    assert!(
        !listed.contains("2.29.0") && !listed.contains("2.28.1") && !listed.contains("1.14.0"),
        "{listed}"
    );
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, 3 * MINUTE).unwrap();

    let client = Client::new(&work.join("client"), pair.high_prefix(), &pair.ca()).unwrap();
    let image = format!("localhost:{}/ghcr.io/coder/coder:v2.28.2", pair.serve_port());
    client.copy(&image, &work.join("pulled"), "it", &[]).unwrap();
    let files = pair.mirror().unwrap().sums().unwrap();
    assert!(files.contains_key("coder/2.28.2/coder_helm_2.28.2.tgz"), "{files:?}");
    if let Err(skip) = terraform::find() {
        return skip.announce_or_fail_in_ci("a template installed by stock terraform");
    }
    let rc = pair.mirror().unwrap().terraformrc(false).unwrap();
    let project = Project::new(
        &work.join("project"),
        pair.high_prefix(),
        &rc,
        &pair.ca(),
        "registry.terraform.io/coder/coder",
        "2.13.1",
    )
    .unwrap();
    project
        .write(
            "terraform {\n  required_providers {\n    coder = {\n      source = \"coder/coder\"\n    }\n  }\n}\n\
             module \"code-server\" {\n  source  = \"registry.coder.com/coder/code-server/coder\"\n  version = \"~> 1.0\"\n}\n",
        )
        .unwrap();
    project.init(&[]).unwrap();
    assert!(project.module("code-server").unwrap().join("main.tf").is_file());
}
