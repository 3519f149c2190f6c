//! Terraform modules: from a registry that says where their archives are, over the link, to stock terraform, whose templates
//! name the source that they have always named.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diodesync_system::origin::{Fault, Origin, Registry};
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::terraform::{self, Project};
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const MODULE: &str = "Acme/net/aws";

fn sync(pair: &Pair) -> Done {
    pair.low.run_within(&["sync"], 3 * MINUTE).unwrap()
}

fn contains(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

fn main_tf(version: &str) -> String {
    format!("output \"version\" {{\n  value = \"{version}\"\n}}\n")
}

/// What `tar` packs: a module at the folder, and one in `inner` below it.
fn tar_gz(work: &Path, version: &str, folder: &str) -> Vec<u8> {
    let dir = work.join(format!("module-{version}"));
    for (folder, version) in
        [(dir.join(folder), version.to_owned()), (dir.join(folder).join("inner"), format!("inner {version}"))]
    {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("main.tf"), main_tf(&version)).unwrap();
    }
    std::os::unix::fs::symlink("main.tf", dir.join(folder).join("alias.txt")).unwrap();
    let archive = work.join(format!("{version}.tar.gz"));
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&dir).arg(".").status().unwrap();
    assert!(tar.success());
    std::fs::read(&archive).unwrap()
}

fn zip(name: &str, content: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(content.as_bytes()).unwrap();
    writer.finish().unwrap().into_inner()
}

/// Installs a template and gives what its module says of itself; `what` is the rest of the source and the constraint.
fn install(project: &Project, origin: &Origin, (inner, constraint): (&str, &str)) -> anyhow::Result<String> {
    project.forget()?;
    let source = format!("{}/{MODULE}{inner}", origin.address());
    let main = format!("module \"it\" {{\n  source  = \"{source}\"\n  version = \"{constraint}\"\n}}\n");
    project.write(&main)?;
    project.init(&[])?;
    Ok(std::fs::read_to_string(project.module("it")?.join("main.tf"))?)
}

#[test]
fn modules_cross_and_are_installed_from_templates_as_they_are() {
    let mut pair =
        Pair::over_link(&Setup { name: "modules", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let mut registry = Registry::new(&origin);
    origin.put("/files/1.0.0.tar.gz", tar_gz(&work, "1.0.0", ""));
    origin.put("/files/1.1.0", tar_gz(&work, "1.1.0", "repo-0a1b/modules/net"));
    origin.put("/files/1.2.0.zip", zip("main.tf", &main_tf("1.2.0")));
    origin.put("/files/1.3.0.zip", zip("../main.tf", &main_tf("1.3.0")));
    tar_gz(&work, "1.4.0", "");
    registry.offer_module(MODULE, "1.0.0", "../../../../../../files/1.0.0.tar.gz");
    registry.offer_module(MODULE, "1.1.0", "/files/1.1.0//*/modules/net?archive=tar.gz&x=y");
    registry.offer_module(MODULE, "1.2.0", &format!("https://{}/files/1.2.0.zip", origin.address()));
    registry.offer_module(MODULE, "1.3.0", "/files/1.3.0.zip");
    registry.offer_module(MODULE, "1.4.0", "git::https://git.example/acme/net?ref=1");
    registry.offer_module(MODULE, "2.0.0", "/files/2.0.0.zip");
    let text = format!(
        "[[source]]\nname = 'modules'\nkind = 'terraform'\nmodules = ['{}/{MODULE} ~> 1.0']\nnewest = 9\n\
         ca_file = '{}'\ngone = 'withdraw'\n",
        origin.address(),
        origin.ca.display()
    );
    let table: toml::Table = text.parse().unwrap();
    pair.low.set(&["source"], table["source"].clone()).unwrap();
    pair.start().unwrap();
    let name = |version: &str| format!("module {}/acme/net/aws {version}", origin.address());

    // What cannot be had is named, with why; what can be is released.
    let done = sync(&pair);
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    contains(
        &done.stdout,
        &[
            "modules: 3 new",
            &format!("new      {}", name("1.0.0")),
            &format!("new      {}", name("1.1.0")),
            &format!("new      {}", name("1.2.0")),
            &format!("REFUSED  {}", name("1.3.0")),
            "names that stay in the archive",
            &format!("REFUSED  {}", name("1.4.0")),
            "git::https://git.example/acme/net?ref=1",
            "diode-sender submit module",
        ],
    );
    assert!(!done.stdout.contains("2.0.0"), "{}", done.stdout);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    registry.withdraw_module(MODULE, "1.3.0");

    // By hand, what the registry does not give out.
    let archive = work.join("1.4.0.tar.gz").display().to_string();
    let source = format!("{}/acme/net/aws", origin.address());
    let by_hand = ["submit", "module", &archive, "--source", &source, "--version", "1.4.0"];
    let wrong = pair.low.run(&[by_hand.as_slice(), &["--folder", "none"]].concat()).unwrap();
    assert_eq!(wrong.code, Some(1));
    contains(&wrong.stderr, &["1.4.0.tar.gz is refused", "a .tf file in the folder \"none\""]);
    pair.low.ok(&by_hand).unwrap();
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(2, 2 * MINUTE).unwrap();
    // A version does not change what it means, so what is here is not asked for again.
    origin.asked();
    contains(&sync(&pair).ok().unwrap(), &["modules: 0 new, 4 unchanged"]);
    assert!(origin.asked().iter().all(|asked| !asked.path.contains("download")));
    contains(&pair.low.ok(&["list"]).unwrap(), &[&name("1.4.0")]);

    let has_terraform = match terraform::find() {
        Ok(()) => true,
        Err(skip) => {
            skip.announce_or_fail_in_ci("installing a module with stock terraform");
            false
        }
    };
    let project = |pair: &Pair| {
        let rc = pair.mirror().unwrap().terraformrc(false).unwrap();
        contains(&rc, &[&format!("host \"{}\"", origin.address()), "\"modules.v1\""]);
        let dir = work.join("project");
        let _ = std::fs::remove_dir_all(&dir);
        Project::new(&dir, pair.high_prefix(), &rc, &pair.ca(), "unused.example/a/b", "1.0.0").unwrap()
    };
    if has_terraform {
        let project = project(&pair);
        for (what, version) in [
            (("", "1.0.0"), "1.0.0"),
            (("//inner", "1.0.0"), "inner 1.0.0"),
            (("", "1.1.0"), "1.1.0"),
            (("//inner", "1.1.0"), "inner 1.1.0"),
            (("", "1.2.0"), "1.2.0"),
            (("", "~> 1.0"), "1.4.0"),
        ] {
            assert_eq!(install(&project, &origin, what).unwrap(), main_tf(version), "{what:?}");
        }
    }

    // A version more, and one less; an upstream that fails in between changes nothing.
    origin.put("/files/1.5.0.tar.gz", tar_gz(&work, "1.5.0", ""));
    registry.offer_module(MODULE, "1.5.0", "/files/1.5.0.tar.gz");
    registry.withdraw_module(MODULE, "1.0.0");
    for (fault, why) in [
        (Fault::Content(b"<html>".to_vec()), "damaged, cut or none"),
        (Fault::Endless, "the answer is longer than 256 MiB"),
        (Fault::Status(404, Vec::new()), "404 Not Found"),
    ] {
        origin.fail("/files/1.5.0.tar.gz", 9, fault);
        let done = sync(&pair);
        contains(&done.stdout, &[&name("1.5.0"), why]);
        origin.heal();
    }
    let said = sync(&pair).ok().unwrap();
    contains(&said, &[&format!("new      {}", name("1.5.0"))]);
    let newest = pair.low_status().unwrap().channel("main").unwrap().newest.unwrap();
    pair.wait_published(newest, 2 * MINUTE).unwrap();
    if has_terraform {
        let project = project(&pair);
        assert_eq!(install(&project, &origin, ("", "~> 1.0")).unwrap(), main_tf("1.5.0"));
        assert_eq!(install(&project, &origin, ("", "1.1.0")).unwrap(), main_tf("1.1.0"));
        let error = format!("{:#}", install(&project, &origin, ("", "1.0.0")).unwrap_err());
        contains(&error, &["no available version"]);
    }
}
