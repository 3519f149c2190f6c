//! Profiles: a `[[source]]` of four lines that stands for all the sources of one purpose.
//!
//! ```toml
//! [[source]]
//! profile = "coder"          # what an air-gapped Coder site needs
//! version = "2.28.*"
//! every = "1d"
//! ```
//!
//! A profile is written out as the text of ordinary sources, which are read as if they stood in the configuration:
//! `diode-sender profile coder` prints the same text. A source of the configuration that has the name of one of its parts
//! takes its place.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::bail;
use diodesync::release::image::ImagePlatform;
use diodesync_control::table::{Table, nearest};

use super::config::parse_host;
use super::schedule::Schedule;

/// What a site of Coder needs, each part a source.
const PARTS: [&str; 7] = ["server", "chart", "docs", "images", "providers", "modules", "terraform"];
/// The versions of Terraform that are taken, if nothing is said.
const TERRAFORM_DEFAULT: &str = "1.13.*";
const PLATFORM_DEFAULT: &str = "linux/amd64";
/// Keys that each part gets as they stand, all of them texts.
const HANDED_ON: [&str; 6] = ["channel", "every", "cron", "gone", "bytes_max", "proxy"];

/// `diode-sender profile`.
#[derive(Debug, clap::Args)]
pub struct ProfileArgs {
    /// What for
    #[arg(value_name = "PROFILE", value_parser = ["coder"])]
    profile: String,
    /// The versions of Coder
    #[arg(long, value_name = "PATTERN", default_value = "2.*", value_parser = parse_version)]
    version: String,
    /// The versions of Terraform
    #[arg(long, value_name = "PATTERN", default_value = TERRAFORM_DEFAULT, value_parser = parse_version)]
    terraform: String,
    /// A platform; can be given again
    #[arg(long = "platform", value_name = "OS/ARCH", default_value = PLATFORM_DEFAULT, value_parser = parse_platform)]
    platforms: Vec<String>,
    /// Only this part; can be given again
    #[arg(long, value_name = "PART", value_parser = PARTS)]
    with: Vec<String>,
    /// All but this part; can be given again
    #[arg(long, value_name = "PART", value_parser = PARTS, conflicts_with = "with")]
    without: Vec<String>,
}

/// The sources that a profile stands for, as the text of a configuration.
pub fn print(args: &ProfileArgs) {
    let profile = Profile {
        version: args.version.clone(),
        terraform: args.terraform.clone(),
        terraform_key: None,
        cosign_key: None,
        platforms: args.platforms.clone(),
        parts: parts_of(&args.with, &args.without),
        lines: String::new(),
    };
    let parts: Vec<String> = profile.parts().into_iter().map(|(_, text)| text).collect();
    print!("{}", parts.join("\n"));
}

/// One profile, as it is configured.
#[derive(Debug, Clone)]
pub struct Profile {
    version: String,
    terraform: String,
    terraform_key: Option<String>,
    cosign_key: Option<String>,
    platforms: Vec<String>,
    parts: BTreeSet<String>,
    /// What each part gets, in TOML.
    lines: String,
}

impl Profile {
    /// Reads a `[[source]]` that has a `profile`.
    pub fn parse(mut table: Table<'_>) -> anyhow::Result<Self> {
        let any = |text: &str| Ok::<_, String>(text.to_owned());
        table.required("profile", |text| match text {
            "coder" => Ok(()),
            other => Err(format!("there is no {other:?}; expected \"coder\"")),
        })?;
        for key in ["kind", "name"] {
            if table.has(key) {
                bail!(table.error_at(
                    key,
                    format!("{key}: a profile gives its sources their kinds and names; leave it out")
                ));
            }
        }
        for key in ["token_file", "user_file", "password_file"] {
            if table.has(key) {
                bail!(table.error_at(
                    key,
                    format!(
                        "{key}: a profile asks several hosts, and a credential is for one; write the part that needs it as a \
                         source of its own: diode-sender profile coder"
                    )
                ));
            }
        }
        let mut lines = String::new();
        for key in HANDED_ON {
            if let Some(text) = table.parsed(key, any)? {
                lines.push_str(&format!("{key} = {}\n", quoted(&text)));
            }
        }
        if table.has("every") && table.has("cron") {
            bail!(table.error_at("cron", "every and cron are two schedules; keep one of them"));
        }
        // Looked at here, so that a mistake has its place; what is handed on is read again with each part.
        table.parsed("every", Schedule::every)?;
        table.parsed("cron", Schedule::cron)?;
        if let Some(path) = table.parsed("ca_file", path)? {
            lines.push_str(&format!("ca_file = {}\n", quoted(&path)));
        }
        if !table.flag("release", true)? {
            lines.push_str("release = false\n");
        }
        if let Some(parallel) = table.number("parallel", 1..=16)? {
            lines.push_str(&format!("parallel = {parallel}\n"));
        }
        let hosts = table.pairs("hosts", |host, to| {
            parse_host(host, to).map(|_| format!("{} = {}", quoted(host), quoted(to)))
        })?;
        if !hosts.is_empty() {
            lines.push_str(&format!("hosts = {{ {} }}\n", hosts.join(", ")));
        }
        let (with, without) = (table.list("with", parse_part)?, table.list("without", parse_part)?);
        if with.is_some() && without.is_some() {
            bail!(table.error_at("without", "with and without are two lists of parts; keep one of them"));
        }
        let parts = parts_of(&with.unwrap_or_default(), &without.unwrap_or_default());
        if parts.is_empty() {
            bail!(table.error_at("without", "without leaves no part"));
        }
        let platforms = table.list("platforms", parse_platform)?;
        let profile = Self {
            version: table.required("version", parse_version)?,
            terraform: table.parsed("terraform", parse_version)?.unwrap_or(TERRAFORM_DEFAULT.to_owned()),
            terraform_key: table.parsed("terraform_key_file", path)?,
            cosign_key: table.parsed("cosign_key", path)?,
            platforms: platforms.unwrap_or(vec![PLATFORM_DEFAULT.to_owned()]),
            parts,
            lines,
        };
        table.finish("a profile")?;
        Ok(profile)
    }

    /// Its sources: name and text.
    pub fn parts(&self) -> Vec<(String, String)> {
        let wanted = PARTS.into_iter().filter(|part| self.parts.contains(*part));
        wanted
            .map(|part| {
                let name = format!("coder-{part}");
                let text = format!("[[source]]\nname = \"{name}\"\n{}{}", self.part(part), self.lines);
                (name, text)
            })
            .collect()
    }

    fn part(&self, part: &str) -> String {
        let version = &self.version;
        let of_release = |file: &str| {
            format!(
                "kind = \"http\"\nversion_of = \"ghcr.io/coder/coder:v{version}\"\nfiles = [{{ into = \"coder/{{version}}/\", \
                 keep_sums = true, sums = \"coder_{{version}}_checksums.txt\",\n           \
                 url = \"https://github.com/coder/coder/releases/download/v{{version}}/{file}\" }}]\n"
            )
        };
        let platforms = list(&self.platforms);
        match part {
            "server" => {
                let key = self
                    .cosign_key
                    .as_ref()
                    .map(|key| format!("cosign_key = {}\n", quoted(key)))
                    .unwrap_or_default();
                format!(
                    "kind = \"oci\"\nimages = [\"ghcr.io/coder/coder:v{version}\"]\nplatforms = {platforms}\n{key}"
                )
            }
            "chart" => of_release("coder_helm_{version}.tgz"),
            "docs" => of_release("coder_docs_{version}.tgz"),
            "images" => format!(
                "kind = \"oci\"\nimages = [\n  \"docker.io/library/postgres:17.*\",\n  \"ghcr.io/coder/envbuilder:latest\",\n  \
                 \"docker.io/codercom/code-server:4.*\",\n  \"docker.io/codercom/enterprise-base:ubuntu\",\n]\n\
                 platforms = {platforms}\n"
            ),
            "providers" => {
                let platforms: Vec<String> =
                    self.platforms.iter().map(|platform| platform.replace('/', "_")).collect();
                format!(
                    "kind = \"terraform\"\nproviders = [\n  \"coder/coder ~> 2.0\",\n  \"coder/envbuilder ~> 1.0\",\n  \
                     \"kreuzwerker/docker ~> 3.0\",\n  \"hashicorp/kubernetes ~> 2.0\",\n  \"hashicorp/aws >= 5.0\",\n]\n\
                     platforms = {}\n",
                    list(&platforms)
                )
            }
            "modules" => {
                let names = [
                    "code-server",
                    "coder-login",
                    "dotfiles",
                    "filebrowser",
                    "git-clone",
                    "git-config",
                    "jetbrains",
                    "vscode-web",
                ];
                let names: Vec<String> = names
                    .into_iter()
                    .map(|name| format!("  \"registry.coder.com/coder/{name}/coder\",\n"))
                    .collect();
                format!("kind = \"terraform\"\nmodules = [\n{}]\n", names.concat())
            }
            _ => self.terraform(),
        }
    }

    /// The binary, its list and the signature over that, which is for those on the far side too.
    fn terraform(&self) -> String {
        let key = self
            .terraform_key
            .as_ref()
            .map(|key| format!(", key_file = {}", quoted(key)))
            .unwrap_or_default();
        let file = |platform: &String| {
            format!(
                "  {{ into = \"terraform/{{version}}/\", keep_sums = true, sums = \"terraform_{{version}}_SHA256SUMS\",\n    \
                 signature = \"terraform_{{version}}_SHA256SUMS.sig\"{key},\n    \
                 url = \"https://releases.hashicorp.com/terraform/{{version}}/terraform_{{version}}_{}.zip\" }},\n",
                platform.replace('/', "_")
            )
        };
        let files: String = self.platforms.iter().map(file).collect();
        format!(
            "kind = \"http\"\nversion_of = \"docker.io/hashicorp/terraform:{}\"\nfiles = [\n{files}]\n",
            self.terraform
        )
    }
}

fn parts_of(with: &[String], without: &[String]) -> BTreeSet<String> {
    let all = PARTS.into_iter().map(str::to_owned);
    all.filter(|part| (with.is_empty() || with.contains(part)) && !without.contains(part)).collect()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A version, or a pattern of some, without a `v`.
fn parse_version(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b".-*?".contains(&b);
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    if (1..=64).contains(&text.len()) && begins && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected a version, or a pattern of some, like 2.28.*, found {text:?}"))
    }
}

fn parse_part(text: &str) -> Result<String, String> {
    if PARTS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(match nearest(text, PARTS.into_iter()) {
        Some(near) => format!("there is no part {text:?}; `{near}` is probably meant"),
        None => format!("there is no part {text:?}; expected some of {}", PARTS.join(", ")),
    })
}

/// `OS/ARCH`, which images and providers name alike. A variant says nothing to providers.
fn parse_platform(text: &str) -> Result<String, String> {
    text.parse::<ImagePlatform>().map_err(|error| error.to_string())?;
    match text.matches('/').count() {
        1 => Ok(text.to_owned()),
        _ => Err(format!("expected OS/ARCH, like linux/amd64, found {text:?}")),
    }
}

fn path(text: &str) -> Result<String, String> {
    super::config::parse_path(text).map(|path: PathBuf| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use crate::sources::parse_all;

    const FOUR_LINES: &str = "[[source]]\nprofile = \"coder\"\nversion = \"2.28.*\"\nevery = \"1d\"\n";

    #[test]
    fn four_lines_are_seven_sources() {
        let all = parse_all(FOUR_LINES).unwrap();
        let names: Vec<_> = all.iter().map(|source| (source.name.as_str(), source.kind.name())).collect();
        assert_eq!(
            names,
            [
                ("coder-server", "oci"),
                ("coder-chart", "http"),
                ("coder-docs", "http"),
                ("coder-images", "oci"),
                ("coder-providers", "terraform"),
                ("coder-modules", "terraform"),
                ("coder-terraform", "http"),
            ]
        );
        assert!(all.iter().all(|source| source.schedule.is_some() && source.channel.as_str() == "main"));
        let more = "channel = 'coder'\ngone = 'withdraw'\nplatforms = ['linux/amd64', 'linux/arm64']\nrelease = false\n\
                    parallel = 2\nca_file = '/a \"b\".pem'\nterraform_key_file = '/k.asc'\ncosign_key = '/c.pub'\n\
                    without = ['docs']\nhosts = { 'ghcr.io' = 'http://cache.example:5000' }\n";
        let all = parse_all(&format!("{FOUR_LINES}{more}")).unwrap();
        assert_eq!(all.len(), 6);
        for source in &all {
            assert!(source.channel.as_str() == "coder" && !source.release && source.access.parallel == 2);
            assert_eq!(source.access.ca_file.as_deref(), Some(std::path::Path::new("/a \"b\".pem")));
            assert_eq!(source.access.hosts["ghcr.io"].to_string(), "http://cache.example:5000/");
        }
    }

    #[test]
    fn a_part_is_replaced_by_a_source_of_its_name() {
        let own = "[[source]]\nname = 'coder-providers'\nkind = 'terraform'\nproviders = ['a/b']\n";
        for text in [format!("{own}{FOUR_LINES}"), format!("{FOUR_LINES}{own}")] {
            let all = parse_all(&text).unwrap();
            let own: Vec<_> = all.iter().filter(|source| source.name == "coder-providers").collect();
            assert_eq!((all.len(), own.len()), (7, 1));
            assert!(own[0].schedule.is_none());
        }
    }

    #[test]
    fn what_is_printed_is_what_it_stands_for() {
        use clap::Parser;
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            args: super::ProfileArgs,
        }
        let args = Cli::parse_from(["it", "coder", "--without", "docs"]).args;
        assert_eq!(super::parts_of(&args.with, &args.without).len(), 6);
        let document = toml::de::DeTable::parse(FOUR_LINES).unwrap();
        let table =
            diodesync_control::table::Table::all_of(FOUR_LINES, document.get_ref(), "source").unwrap();
        let profile = super::Profile::parse(table.into_iter().next().unwrap()).unwrap();
        let text: String = profile.parts().into_iter().map(|(_, text)| text).collect();
        assert_eq!(parse_all(&text).unwrap().len(), 7);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (more, why) in [
            (
                "versoin = '2'\n",
                "line 5, column 1: a profile has no key `versoin`; `version` is probably meant",
            ),
            (
                "without = ['doc']\n",
                "line 5, column 12: without: there is no part \"doc\"; `docs` is probably meant",
            ),
            ("with = ['docs']\nwithout = ['docs']\n", "keep one of them"),
            ("platforms = ['linux_amd64']\n", "line 5, column 14: platforms"),
            ("cron = '0 0 * * *'\n", "two schedules"),
            ("token_file = '/x'\n", "a credential is for one"),
            ("kind = 'oci'\n", "leave it out"),
            ("hosts = { 'ghcr.io' = 'https://a.example/b' }\n", "without a path"),
            ("gone = 'never'\n", "gone: expected \"keep\" or \"withdraw\""),
        ] {
            let error = format!("{:#}", parse_all(&format!("{FOUR_LINES}{more}")).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let two = format!("{FOUR_LINES}{FOUR_LINES}");
        assert!(parse_all(&two).unwrap_err().to_string().contains("two sources are named coder-server"));
        for bad in ["x", "v2", "2 3", ""] {
            let text = FOUR_LINES.replace("2.28.*", bad);
            assert!(
                parse_all(&text).unwrap_err().to_string().contains("line 3, column 11: version"),
                "{bad}"
            );
        }
        assert!(
            parse_all("[[source]]\nprofile = 'codr'\n")
                .unwrap_err()
                .to_string()
                .contains("expected \"coder\"")
        );
    }
}
