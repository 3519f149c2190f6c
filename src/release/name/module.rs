//! Addresses of Terraform modules in a registry.

use std::fmt;
use std::str::FromStr;

use super::{NameError, is_host, is_label, refuse};

/// `HOST/NAMESPACE/NAME/SYSTEM`, as Terraform writes the source of a module in a registry, in lower case: registries do
/// not tell cases apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleAddress {
    /// The origin registry, with its port if it has one.
    pub host: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The system that it is for, like `aws`.
    pub system: String,
}

impl FromStr for ModuleAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the module source", text, why);
        let parts: Vec<&str> = text.split('/').collect();
        let [host, namespace, name, system] = parts.as_slice() else {
            return no(
                "expected HOST/NAMESPACE/NAME/SYSTEM, like registry.terraform.io/terraform-aws-modules/vpc/aws",
            );
        };
        if !is_host(host) {
            return no("the host is not a lower-case host name with an optional port");
        }
        if ![namespace, name, system].into_iter().all(|label| is_label(label)) {
            return no("namespace, name and system are 1 to 64 of a-z, 0-9, - and _");
        }
        Ok(Self {
            host: (*host).to_owned(),
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            system: (*system).to_owned(),
        })
    }
}

impl fmt::Display for ModuleAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.host, self.namespace, self.name, self.system)
    }
}

/// How the archive of a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleFormat {
    /// A tar file, compressed by gzip.
    TarGz,
    /// A zip file.
    Zip,
}

impl ModuleFormat {
    /// What a file name of this format ends with.
    pub fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::Zip => "zip",
        }
    }

    /// The format that a file name tells.
    pub fn of_file_name(name: &str) -> Option<Self> {
        match name {
            name if name.ends_with(".tar.gz") || name.ends_with(".tgz") => Some(Self::TarGz),
            name if name.ends_with(".zip") => Some(Self::Zip),
            _ => None,
        }
    }
}

/// The folder of an archive in which its module is; empty for the top.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleFolder(String);

impl ModuleFolder {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModuleFolder {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the folder of a module", text, why);
        if text.len() > 255 {
            return no("it is longer than 255 octets");
        }
        for component in text.split('/').filter(|_| !text.is_empty()) {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            match component {
                "" | "." | ".." => return no("it has an empty component, or one that is . or .."),
                name if name.bytes().all(is_plain) => {}
                _ => return no("its components are letters, digits, dots, hyphens and underscores"),
            }
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_sources_are_fully_qualified_and_lower_case() {
        for good in ["registry.terraform.io/terraform-aws-modules/vpc/aws", "localhost:8443/a/b_c/d"] {
            assert_eq!(good.parse::<ModuleAddress>().unwrap().to_string(), good);
        }
        for bad in
            ["a/b/c", "h/Azure/aks/azurerm", "h/a/b/c/d", "../a/b/c", "h/a/../c", "h/a//c", "h:0/a/b/c", ""]
        {
            assert!(bad.parse::<ModuleAddress>().is_err(), "{bad}");
        }
        for good in ["", "a", "modules/a.b-c_d"] {
            assert_eq!(good.parse::<ModuleFolder>().unwrap().as_str(), good);
        }
        for bad in ["/", "a/", "../a", "a/..", "*", "*/a", "a b", "a?b", "a//b", "ä", &"a".repeat(256)] {
            assert!(bad.parse::<ModuleFolder>().is_err(), "{bad}");
        }
        for (name, format) in [
            ("a.tar.gz", Some(ModuleFormat::TarGz)),
            ("a.tgz", Some(ModuleFormat::TarGz)),
            ("a.zip", Some(ModuleFormat::Zip)),
            ("a.tar", None),
            ("zip", None),
        ] {
            assert_eq!(ModuleFormat::of_file_name(name), format, "{name}");
        }
    }
}
