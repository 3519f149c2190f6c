//! What `receiver.toml` says of what may be published: `[policy]` and `[[approver]]`.

use std::fmt::Display;
use std::str::FromStr;

use anyhow::bail;
use diodesync::id::Channel;
use diodesync::release::approval::{Approver, ApproverId, Quorum};
use diodesync::release::glob::GLOB_BYTES_MAX;
use diodesync::release::policy::{Action, Kind, Policy, Rule, Versions};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{Config, bytes};

/// Rules of a policy.
const RULES_MAX: usize = 1000;
/// Digits of the fingerprints that OpenPGP keys have.
const FINGERPRINT_DIGITS: [usize; 2] = [40, 64];

/// `[policy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// What holds where no rule does.
    default: Word,
    /// The rules in their order.
    #[serde(default)]
    rule: Vec<RuleConfig>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
}

impl From<Word> for Action {
    fn from(word: Word) -> Self {
        match word {
            Word::Allow => Self::Allow,
            Word::Deny => Self::Deny,
        }
    }
}

/// `[[policy.rule]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: String,
    then: Word,
    #[serde(default)]
    channels: Vec<Channel>,
    #[serde(default, deserialize_with = "parsed_list")]
    kinds: Vec<Kind>,
    #[serde(default, deserialize_with = "parsed_list")]
    names: Vec<Pattern>,
    #[serde(default, deserialize_with = "parsed")]
    versions: Option<Versions>,
    #[serde(default, deserialize_with = "parsed_list")]
    platforms: Vec<Pattern>,
    #[serde(default, deserialize_with = "parsed_list")]
    signers: Vec<Fingerprint>,
    #[serde(default, deserialize_with = "some_bytes")]
    bytes_max: Option<u64>,
    #[serde(default, deserialize_with = "some_bytes")]
    bytes_over: Option<u64>,
}

/// `[[approver]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverConfig {
    name: String,
    key: ApproverId,
    #[serde(default, deserialize_with = "some_date")]
    until: Option<u64>,
}

#[derive(Debug, Clone)]
struct Pattern(String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=GLOB_BYTES_MAX => Ok(Self(text.to_owned())),
            found => Err(format!("expected a pattern of 1 to {GLOB_BYTES_MAX} octets, found {found}")),
        }
    }
}

#[derive(Debug, Clone)]
struct Fingerprint(String);

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if FINGERPRINT_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(digits.to_ascii_uppercase()));
        }
        Err(format!(
            "expected an OpenPGP key's whole fingerprint, 40 or 64 hexadecimal digits as gpg --show-keys prints it, \
             found {text:?}"
        ))
    }
}

fn parsed_list<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<Option<T>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(D::Error::custom)
}

fn some_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    bytes(d).map(Some)
}

/// A day, which ends it at its beginning (UTC), or a moment (RFC 3339), in seconds since 1970.
fn some_date<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(d)?;
    let moment = if text.contains('T') { text.clone() } else { format!("{text}T00:00:00Z") };
    let second = moment.parse::<jiff::Timestamp>().ok().and_then(|it| u64::try_from(it.as_second()).ok());
    second.map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "expected a day like \"2027-01-31\", or a moment like \"2027-01-31T12:00:00Z\", found {text:?}"
        ))
    })
}

impl RuleConfig {
    fn rule(&self) -> Rule {
        let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.0.clone()).collect();
        // As Terraform writes a platform, too.
        let platforms = self.platforms.iter().map(|Pattern(text)| text.replace('_', "/")).collect();
        Rule {
            channels: self.channels.clone(),
            kinds: self.kinds.clone(),
            names: texts(&self.names),
            versions: self.versions.clone(),
            platforms,
            signers: self.signers.iter().map(|signer| signer.0.clone()).collect(),
            bytes_max: self.bytes_max,
            bytes_over: self.bytes_over,
            ..Rule::new(self.name.clone(), self.then.into())
        }
    }
}

impl Config {
    /// Which artifacts may be published; all of them if nothing is said.
    pub fn policy(&self) -> Policy {
        self.policy.as_ref().map_or(Policy::open(), |policy| Policy {
            default: policy.default.into(),
            rules: policy.rule.iter().map(RuleConfig::rule).collect(),
        })
    }

    /// Whose approvals count.
    pub fn approvers(&self) -> Vec<Approver> {
        let approver =
            |it: &ApproverConfig| Approver { name: it.name.clone(), key: it.key, until_s: it.until };
        self.approver.iter().map(approver).collect()
    }

    /// What contradicts itself.
    pub(super) fn check_rules(&self) -> anyhow::Result<()> {
        let rules = self.policy.iter().flat_map(|policy| &policy.rule);
        let names: Vec<&str> = rules.map(|rule| rule.name.as_str()).collect();
        if names.len() > RULES_MAX {
            bail!("policy: expected {RULES_MAX} rules at most, found {}", names.len());
        }
        if let Some(name) = twice(&names) {
            bail!("policy: two rules are named {name:?}; messages name the rule that decided");
        }
        let names: Vec<&str> = self.approver.iter().map(|approver| approver.name.as_str()).collect();
        if let Some(name) = twice(&names) {
            bail!("two approvers are named {name:?}");
        }
        let keys: Vec<String> = self.approver.iter().map(|approver| approver.key.to_string()).collect();
        if let Some(key) = twice(&keys) {
            bail!("two approvers have the key {key}; one person is one approver");
        }
        for channel in &self.channel {
            let (needed, there) = (channel.approval.count(), self.approver.len());
            if there < needed {
                bail!(
                    "channel {}: approval needs {needed} different approvers, and there are {there} [[approver]]; their \
                     keys are made by: diode-receiver approver-key",
                    channel.name
                );
            }
        }
        Ok(())
    }

    /// How many approvers each channel needs, where that is configured.
    pub fn quorum(&self) -> std::collections::BTreeMap<Channel, Quorum> {
        self.channel.iter().map(|channel| (channel.name.clone(), channel.approval)).collect()
    }
}

fn twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    items
        .iter()
        .enumerate()
        .find(|(at, item)| items.iter().take(*at).any(|other| other == *item))
        .map(|it| it.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "dir = '/x'\n[[lane]]\nname = 'a'\nlisten = '0.0.0.0:1'\n[serve]\nlisten = '0.0.0.0:2'\nhosts = ['h']\n";
    const ALICE: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
    const BOB: &str = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";

    fn parse(more: &str) -> Result<Config, String> {
        Config::parse(&format!("{HEAD}{more}")).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_policy_is_read() {
        let config = parse(
            "[policy]\ndefault = 'deny'\n[[policy.rule]]\nname = 'coder'\nthen = 'allow'\nchannels = ['main']\n\
             kinds = ['provider']\nnames = ['registry.terraform.io/coder/*']\nversions = '~> 2.0'\n\
             platforms = ['linux_amd64']\nsigners = ['00c0 ffee 00c0 ffee 00c0 ffee 00c0 ffee 00c0 ffee']\n\
             bytes_max = '1GB'\n",
        );
        let policy = config.unwrap().policy();
        assert_eq!(policy.default, Action::Deny);
        let rule = &policy.rules[0];
        assert_eq!((rule.action, rule.kinds.as_slice()), (Action::Allow, [Kind::Provider].as_slice()));
        assert_eq!(rule.platforms, ["linux/amd64"]);
        assert_eq!(rule.signers, ["00C0FFEE00C0FFEE00C0FFEE00C0FFEE00C0FFEE"]);
        assert_eq!(rule.bytes_max, Some(1_000_000_000));
        assert_eq!(parse("").unwrap().policy(), Policy::open());
    }

    #[test]
    fn approvers_are_read() {
        let config = parse(&format!(
            "[[channel]]\nname = 'main'\napproval = 'two'\n[[approver]]\nname = 'alice'\nkey = '{ALICE}'\n\
             [[approver]]\nname = 'bob'\nkey = '{BOB}'\nuntil = '2027-01-31'\n"
        ));
        let config = config.unwrap();
        assert_eq!(config.quorum()[&Channel::main()], Quorum::Two);
        let approvers = config.approvers();
        assert_eq!((approvers[0].name.as_str(), approvers[0].until_s), ("alice", None));
        assert_eq!(approvers[1].until_s, Some(1_801_353_600));
    }

    #[test]
    fn mistakes_are_named() {
        let rule = "[policy]\ndefault = 'deny'\n[[policy.rule]]\nname = 'a'\nthen = 'allow'\n";
        let alice = format!("[[approver]]\nname = 'alice'\nkey = '{ALICE}'\n");
        for (more, expected) in [
            ("[policy]\n".to_owned(), "missing field `default`"),
            ("[policy]\ndefault = 'perhaps'\n".to_owned(), "unknown variant `perhaps`"),
            (
                format!("{rule}kinds = ['picture']\n"),
                "expected one of file, provider, module, image, package",
            ),
            (format!("{rule}versions = 'newest'\n"), "expected version constraints"),
            (format!("{rule}signers = ['C0FFEE']\n"), "whole fingerprint"),
            (format!("{rule}names = ['']\n"), "expected a pattern"),
            (format!("{rule}sizes = 1\n"), "unknown field `sizes`"),
            (format!("{rule}[[policy.rule]]\nname = 'a'\nthen = 'deny'\n"), "two rules are named \"a\""),
            ("[[channel]]\nname = 'main'\napproval = 'three'\n".to_owned(), "unknown variant `three`"),
            (format!("[[channel]]\nname = 'main'\napproval = 'two'\n{alice}"), "needs 2 different approvers"),
            (format!("{alice}{}", alice.replace("alice", "bob")), "two approvers have the key"),
            (format!("{alice}{}", alice.replace(ALICE, BOB)), "two approvers are named \"alice\""),
            (alice.replace(ALICE, "00"), "no Ed25519 public key"),
            // The identity, with which everything is signed.
            (alice.replace(ALICE, &format!("01{}", "00".repeat(31))), "no Ed25519 public key"),
            (format!("{alice}until = 'never'\n"), "expected a day like"),
        ] {
            let error = parse(&more).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
