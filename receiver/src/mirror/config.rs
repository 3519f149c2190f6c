//! `[[mirror]]` of `receiver.toml`: the site's own mirrors, which are pushed to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use diodesync::quantity::parse_duration;
use diodesync::release::ArtifactName;
use diodesync_control::table::Table;
use toml::de::DeTable;

use super::oci::{NameMap, RegistryHost};

/// Mirrors of one receiver.
const MIRRORS_MAX: usize = 32;
/// How often a mirror that holds everything is compared with what it should hold.
const CHECK_DEFAULT: Duration = Duration::from_secs(3600);
/// The shortest time between two comparisons.
const CHECK_MIN: Duration = Duration::from_secs(10);
/// How long a tree that was replaced stays for who reads it.
const GRACE_DEFAULT: Duration = Duration::from_secs(3600);

/// A mirror.
#[derive(Debug, Clone)]
pub struct MirrorConfig {
    /// Its name, `[a-z0-9-]{1,32}`.
    pub name: String,
    /// How often it is compared with what it should hold, although nothing was published.
    pub check_every: Duration,
    /// What it is.
    pub kind: Kind,
}

/// What a mirror is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A registry of container images.
    Oci(OciConfig),
    /// A tree of files on this host.
    Tree(TreeConfig),
}

impl Kind {
    /// As the configuration names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Oci(_) => "oci",
            Self::Tree(tree) => tree.what.name(),
        }
    }

    /// Whether it is to hold an artifact, once that is published.
    pub fn takes(&self, name: &ArtifactName) -> bool {
        match (self, name) {
            (Self::Oci(oci), ArtifactName::Image(repository, _)) => oci.map.target(repository).is_some(),
            (Self::Tree(tree), ArtifactName::File(_)) => tree.what == TreeKind::Files,
            (Self::Tree(tree), ArtifactName::Provider(..)) => tree.what == TreeKind::Terraform,
            _ => false,
        }
    }
}

/// A registry that images are pushed to.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// Where it is.
    pub registry: RegistryHost,
    /// What an image is called there.
    pub map: NameMap,
    /// Files that hold a user's name and password.
    pub user: Option<(PathBuf, PathBuf)>,
    /// PEM certificates of the only authorities that are trusted; those of the system, if there is none.
    pub ca_file: Option<PathBuf>,
    /// Whether tags that were pushed from here and are not published any more are taken away.
    pub deletes_gone: bool,
}

/// A tree of files.
#[derive(Debug, Clone)]
pub struct TreeConfig {
    /// What lies in it.
    pub what: TreeKind,
    /// The link that always leads to a whole tree; the trees lie beside it, in `PATH.trees`.
    pub path: PathBuf,
    /// How long a tree that was replaced stays.
    pub grace: Duration,
}

/// What lies in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// The published files.
    Files,
    /// Terraform's filesystem mirror, packed.
    Terraform,
}

impl TreeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Files => "files-tree",
            Self::Terraform => "terraform-tree",
        }
    }
}

/// Reads every `[[mirror]]` of a configuration that is TOML.
///
/// # Errors
/// The first mistake, with line, column, and what was probably meant.
pub fn parse_mirrors(text: &str) -> anyhow::Result<Vec<MirrorConfig>> {
    let document = DeTable::parse(text)?;
    let mut mirrors = Vec::new();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for mut table in Table::all_of(text, document.get_ref(), "mirror")? {
        let name = table.required("name", parse_name)?;
        if !names.insert(name.clone()) {
            bail!(
                table.error_at("name", format!("two mirrors are named {name}; give each a name of its own"))
            );
        }
        let kind_name = table.required("kind", |text| Ok::<_, String>(text.to_owned()))?;
        let check_every = table.parsed("check_every", parse_check)?.unwrap_or(CHECK_DEFAULT);
        let kind = match kind_name.as_str() {
            "oci" => Kind::Oci(parse_oci(&mut table)?),
            "files-tree" => Kind::Tree(parse_tree(&mut table, TreeKind::Files)?),
            "terraform-tree" => Kind::Tree(parse_tree(&mut table, TreeKind::Terraform)?),
            other => bail!(table.error_at(
                "kind",
                format!("expected \"oci\", \"terraform-tree\" or \"files-tree\", found {other:?}")
            )),
        };
        if let Kind::Tree(tree) = &kind
            && !paths.insert(tree.path.clone())
        {
            bail!(table.error_at("path", format!("two mirrors write {}", tree.path.display())));
        }
        table.finish(&format!("a mirror of kind {kind_name}"))?;
        mirrors.push(MirrorConfig { name, check_every, kind });
        if mirrors.len() > MIRRORS_MAX {
            bail!("expected at most {MIRRORS_MAX} [[mirror]]");
        }
    }
    Ok(mirrors)
}

fn parse_oci(table: &mut Table<'_>) -> anyhow::Result<OciConfig> {
    let registry: RegistryHost = table.required("registry", str::parse)?;
    let mut map = NameMap::of(registry.clone());
    for mut entry in table.tables("map")? {
        let (from, to) = (entry.required("from", text)?, entry.required("to", text)?);
        map.add(&from, &to).map_err(|(key, why)| entry.error_at(key, format!("{key}: {why}")))?;
        entry.finish("an entry of map")?;
    }
    let user = match (table.parsed("user_file", parse_path)?, table.parsed("password_file", parse_path)?) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => bail!(table.error_at("user_file", "user_file needs its password_file")),
        (None, Some(_)) => bail!(table.error_at("password_file", "password_file needs its user_file")),
    };
    Ok(OciConfig {
        registry,
        map,
        user,
        ca_file: table.parsed("ca_file", parse_path)?,
        deletes_gone: table.parsed("gone", parse_gone)?.unwrap_or(false),
    })
}

fn parse_tree(table: &mut Table<'_>, what: TreeKind) -> anyhow::Result<TreeConfig> {
    Ok(TreeConfig {
        what,
        path: table.required("path", parse_tree_path)?,
        grace: table.parsed("grace", parse_duration)?.unwrap_or(GRACE_DEFAULT),
    })
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_letter = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    let is_name = (1..=32).contains(&text.len()) && text.bytes().all(is_letter) && !text.starts_with('-');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("expected 1 to 32 of a-z, 0-9 and -, found {text:?}"))
    }
}

fn parse_check(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text).map_err(|error| error.to_string())?;
    if every < CHECK_MIN { Err(format!("expected at least 10s, found {text:?}")) } else { Ok(every) }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(format!("expected an absolute path, found {text:?}"))
    }
}

fn parse_tree_path(text: &str) -> Result<PathBuf, String> {
    let path = parse_path(text)?;
    let is_plain = !text.ends_with('/')
        && path.file_name().is_some()
        && !path.components().any(|part| part.as_os_str() == "..");
    if is_plain {
        Ok(path)
    } else {
        Err(format!("expected the path of a link, like \"/srv/diodesync/files\", found {text:?}"))
    }
}

fn parse_gone(text: &str) -> Result<bool, String> {
    match text {
        "keep" => Ok(false),
        "delete" => Ok(true),
        other => Err(format!("expected \"keep\" or \"delete\", found {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "[[mirror]]\nname = 'harbor'\nkind = 'oci'\nregistry = 'harbor.site'\n";
    const TREE: &str = "[[mirror]]\nname = 'tf'\nkind = 'terraform-tree'\npath = '/srv/tf'\n";

    #[test]
    fn mirrors_are_read() {
        let text = format!(
            "{OCI}map = [{{ from = 'ghcr.io/coder/*', to = 'harbor.site/coder/*' }}]\nuser_file = '/u'\n\
             password_file = '/p'\ngone = 'delete'\n{TREE}grace = '5m'\ncheck_every = '1m'\n"
        );
        let mirrors = parse_mirrors(&text).unwrap();
        let [harbor, tf] = mirrors.as_slice() else { panic!("{mirrors:?}") };
        assert!(matches!(&harbor.kind, Kind::Oci(oci) if oci.deletes_gone && oci.user.is_some()));
        assert_eq!(
            (tf.name.as_str(), tf.kind.name(), tf.check_every),
            ("tf", "terraform-tree", Duration::from_secs(60))
        );
        assert!(parse_mirrors("dir = '/x'\n").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (bad, expected) in [
            (
                format!("{OCI}regisrty = 'x'\n"),
                "line 5, column 1: a mirror of kind oci has no key `regisrty`; `registry` is probably meant",
            ),
            (
                format!("{TREE}map = []\n"),
                "line 5, column 1: a mirror of kind terraform-tree has no key `map`",
            ),
            (format!("{OCI}gone = 'withdraw'\n"), "line 5, column 8: gone: expected \"keep\" or \"delete\""),
            (format!("{OCI}user_file = '/u'\n"), "user_file needs its password_file"),
            (
                format!("{OCI}map = [{{ from = 'ghcr.io/*', to = 'other.site/*' }}]\n"),
                "to: expected a name in harbor.site/",
            ),
            (format!("{OCI}map = [{{ from = 'ghcr.io/*', to = 'harbor.site/x' }}]\n"), "to: expected one *"),
            (
                format!("{OCI}map = [{{ form = 'ghcr.io/*', to = 'harbor.site/*' }}]\n"),
                "from is missing here",
            ),
            (
                OCI.replace("harbor.site", "https://harbor.site"),
                "line 4, column 12: registry: expected HOST or HOST:PORT",
            ),
            (OCI.replace("oci", "docker"), "line 3, column 8: expected \"oci\""),
            (OCI.replace("'harbor'", "'Harbor'"), "line 2, column 8: name: expected 1 to 32"),
            (format!("{OCI}{OCI}"), "line 6, column 8: two mirrors are named harbor"),
            (format!("{TREE}{}", TREE.replace("'tf'", "'tf2'")), "two mirrors write /srv/tf"),
            (TREE.replace("/srv/tf", "srv/tf"), "path: expected an absolute path"),
            (TREE.replace("/srv/tf", "/srv/../tf"), "path: expected the path of a link"),
            (format!("{TREE}check_every = '1s'\n"), "at least 10s"),
            ("mirror = 3\n".to_owned(), "mirror: expected a list of tables"),
        ] {
            let error = parse_mirrors(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
