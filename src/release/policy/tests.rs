use super::*;
use crate::release::name::PackageName;

const KEY: &str = "00C0FFEE00C0FFEE00C0FFEE00C0FFEE00C0FFEE";

fn provider(version: &str) -> ArtifactName {
    ArtifactName::Provider("registry.terraform.io/coder/coder".parse().unwrap(), version.parse().unwrap())
}

fn image(tag: &str) -> ArtifactName {
    ArtifactName::Image("ghcr.io/coder/coder".parse().unwrap(), tag.parse().unwrap())
}

fn file() -> ArtifactName {
    ArtifactName::File("docs/readme.txt".parse().unwrap())
}

fn package(version: &str) -> ArtifactName {
    let suite = "bookworm-security".parse().unwrap();
    ArtifactName::Package(PackageName::new(suite, "main", "openssl", version, "amd64").unwrap())
}

/// What a policy of one rule says of an artifact with a platform and a signer.
fn verdict(rule: Rule, default: Action, name: &ArtifactName) -> Result<(), PolicyError> {
    let seen = Seen {
        channel: &Channel::main(),
        name,
        platforms: &["linux/amd64".to_owned()],
        signers: &[KEY.to_owned()],
        bytes: 1000,
    };
    Policy { default, rules: vec![rule] }.judge(&seen)
}

fn allow(change: impl FnOnce(&mut Rule), name: &ArtifactName) -> Result<(), PolicyError> {
    let mut rule = Rule::new("it", Action::Allow);
    change(&mut rule);
    verdict(rule, Action::Deny, name)
}

fn why(result: Result<(), PolicyError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn each_condition_decides() {
    let name = provider("2.4.0");
    allow(|_| {}, &name).unwrap();
    allow(|rule| rule.channels = vec![Channel::main()], &name).unwrap();
    let other: Channel = "other".parse().unwrap();
    let error = why(allow(|rule| rule.channels = vec![other], &name));
    assert_eq!(
        error,
        "provider registry.terraform.io/coder/coder 2.4.0: no rule of the policy allows it, and its default is \"deny\""
    );
    allow(|rule| rule.kinds = vec![Kind::File, Kind::Provider], &name).unwrap();
    assert!(why(allow(|rule| rule.kinds = vec![Kind::Image], &name)).ends_with("its default is \"deny\""));
    allow(|rule| rule.names = vec!["*/x".to_owned(), "registry.terraform.io/coder/*".to_owned()], &name)
        .unwrap();
    let error = why(allow(|rule| rule.names = vec!["registry.terraform.io/hashicorp/*".to_owned()], &name));
    assert!(error.contains("the name registry.terraform.io/coder/coder is not among"), "{error}");
    allow(|rule| rule.platforms = vec!["linux/*".to_owned()], &name).unwrap();
    assert!(
        why(allow(|rule| rule.platforms = vec!["linux/arm64".to_owned()], &name))
            .contains("it is for linux/amd64")
    );
    allow(|rule| rule.signers = vec![KEY.to_owned()], &name).unwrap();
    assert!(why(allow(|rule| rule.signers = vec!["00".to_owned()], &name)).contains(KEY));
    allow(|rule| rule.bytes_max = Some(1000), &name).unwrap();
    assert!(
        why(allow(|rule| rule.bytes_max = Some(999), &name))
            .contains("it has 1000 B, and bytes_max is 999 B")
    );
    allow(|rule| rule.bytes_over = Some(999), &name).unwrap();
    assert!(why(allow(|rule| rule.bytes_over = Some(1000), &name)).contains("1000 B only"));
    // Two conditions that do not hold are not near.
    let error = why(allow(|rule| (rule.signers, rule.bytes_max) = (vec!["00".to_owned()], Some(1)), &name));
    assert!(error.ends_with("its default is \"deny\""), "{error}");
}

#[test]
fn versions_are_compared_as_their_kind_does() {
    let takes = |text: &str, name: &ArtifactName| {
        allow(|rule| rule.versions = Some(text.parse().unwrap()), name).is_ok()
    };
    assert!(takes("~> 2.0", &provider("2.4.0")) && !takes("~> 2.0", &provider("3.0.0")));
    assert!(takes(">= 2.20, < 3", &image("v2.28.1")) && !takes(">= 2.20", &image("v2.19.0")));
    assert!(!takes(">= 2", &image("latest")), "a tag that is no version");
    assert!(takes(">= 3.0.11-1~deb12u1", &package("3.0.11-1~deb12u2")));
    assert!(!takes(">= 3.0.11-1~deb12u3", &package("3.0.11-1~deb12u2")));
    assert!(takes("> 2, < 1:0", &package("3.0.11-1")) && !takes("!= 3.0.11-1", &package("3.0.11-1")));
    assert!(!takes("~> 3.0", &package("3.0.11-1")), "Debian has no such comparison");
    assert!(!takes(">= 0", &file()));
    // What may be one of them is denied.
    let denies = |text: &str, name: &ArtifactName| {
        let rule = Rule { versions: Some(text.parse().unwrap()), ..Rule::new("old", Action::Deny) };
        let seen = Seen { channel: &Channel::main(), name, platforms: &[], signers: &[], bytes: 1 };
        Policy { default: Action::Allow, rules: vec![rule] }.judge(&seen).is_err()
    };
    assert!(denies("< 2", &provider("1.9.0")) && !denies("< 2", &provider("2.0.0")));
    assert!(denies("< 2", &provider("1.9.0-rc1")) && !denies("< 2", &provider("2.1.0-rc1")));
    assert!(denies("< 2", &image("latest")) && !denies("< 2", &image("v2.1.0")));
    assert!(denies("~> 3.0", &package("3.0.11-1")), "no comparison of Debian's");
    assert!(!denies(">= 0", &file()));
    for bad in ["newest", ">=", "2.x", ">= 1;"] {
        assert!(bad.parse::<Versions>().is_err(), "{bad}");
    }
}

#[test]
fn what_refuses_needs_one_and_what_allows_needs_all() {
    let platforms = ["linux/amd64".to_owned(), "windows/amd64".to_owned()];
    let judge = |rule: Rule, default, platforms: &[String], signers: &[String]| {
        let seen = Seen { channel: &Channel::main(), name: &image("1"), platforms, signers, bytes: 1 };
        Policy { default, rules: vec![rule] }.judge(&seen)
    };
    let of = |action, platforms: &[&str], signers: &[&str]| Rule {
        platforms: platforms.iter().map(ToString::to_string).collect(),
        signers: signers.iter().map(ToString::to_string).collect(),
        ..Rule::new("it", action)
    };
    assert!(judge(of(Action::Allow, &["linux/*"], &[]), Action::Deny, &platforms, &[]).is_err());
    judge(of(Action::Allow, &["linux/*", "windows/*"], &[]), Action::Deny, &platforms, &[]).unwrap();
    let error = why(judge(of(Action::Deny, &["windows/*"], &[]), Action::Allow, &platforms, &[]));
    assert_eq!(error, "image ghcr.io/coder/coder:1: rule \"it\" of the policy denies it");
    // What runs anywhere is for every platform; what nobody has signed is by no signer.
    judge(of(Action::Allow, &["linux/*"], &[]), Action::Deny, &[], &[]).unwrap();
    let error = why(judge(of(Action::Allow, &[], &[KEY]), Action::Deny, &[], &[]));
    assert!(error.contains("no upstream's signature came with it"), "{error}");
    // A second key beside the one that is known.
    let two = [KEY.to_owned(), "11".repeat(20)];
    assert!(judge(of(Action::Allow, &[], &[KEY]), Action::Deny, &[], &two).is_err());
}

#[test]
fn the_first_rule_that_holds_decides() {
    let rules = || {
        let mut first = Rule::new("no-providers-of-coder", Action::Deny);
        first.names = vec!["*/coder/*".to_owned()];
        vec![first, Rule::new("all", Action::Allow)]
    };
    let judge = |rules: Vec<Rule>, default, name: &ArtifactName| {
        let seen = Seen { channel: &Channel::main(), name, platforms: &[], signers: &[], bytes: 1 };
        Policy { default, rules }.judge(&seen)
    };
    assert!(judge(rules(), Action::Deny, &provider("1.0.0")).is_err());
    judge(rules(), Action::Deny, &file()).unwrap();
    judge(rules().into_iter().rev().collect(), Action::Deny, &provider("1.0.0")).unwrap();
    judge(Vec::new(), Action::Allow, &file()).unwrap();
    assert!(judge(Vec::new(), Action::Deny, &file()).is_err());
    assert_eq!(Policy::open().default, Action::Allow);
}
