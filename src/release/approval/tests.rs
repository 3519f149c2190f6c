use super::*;

const NOW_S: u64 = 1_796_000_000;

fn key(seed: u8) -> ApproverKey {
    ApproverKey::from_seed(&[seed; 32])
}

fn subject() -> Subject {
    Subject {
        link: LinkId([7; 16]),
        channel: Channel::main(),
        number: ReleaseNo(12),
        index: Sha256::of(b"index"),
    }
}

fn approvers() -> Vec<Approver> {
    let approver =
        |name: &str, seed, until_s| Approver { name: name.to_owned(), key: key(seed).id(), until_s };
    vec![approver("alice", 1, None), approver("bob", 2, None), approver("old", 3, Some(NOW_S - 1))]
}

fn approve(seed: u8, made_s: u64) -> Approval {
    key(seed).sign(subject(), Decision::Approve, (made_s, made_s + 1000)).unwrap()
}

fn reject(seed: u8, made_s: u64) -> Approval {
    let why = Decision::Reject("the provider is not reviewed".to_owned());
    key(seed).sign(subject(), why, (made_s, made_s + 1000)).unwrap()
}

fn standing(approvals: &[Approval]) -> Standing {
    Standing::of(&subject(), approvals, &approvers(), NOW_S)
}

#[test]
fn it_is_text_that_survives_a_form() {
    let approval = approve(1, NOW_S);
    let text = approval.to_string();
    assert_eq!(
        text,
        "diodesync approval 1\nlink 07070707070707070707070707070707\nchannel main\nrelease 12\n\
         index 1bc04b5291c26a46d918139138b992d2de976d6851d0893b0476b85bfbdfc6e6\ndecision approve\n\
         made 1796000000\nexpires 1796001000\n\
         key 8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c\n\
         signature ip863DBVEgiKYR66PEKw9YHfIZQ/D8acz4rHvBfZfSvb532Vnx51vTCa2cSdeoRCA8rGtHuMrUu6lmLdNQ2oDw==\n"
    );
    assert_eq!(Approval::parse(&text).unwrap(), approval);
    let pasted = format!("\r\n  {}  ", text.replace('\n', "  \r\n\r\n  "));
    assert_eq!(Approval::parse(&pasted).unwrap(), approval);
    let no = reject(2, NOW_S);
    assert_eq!(Approval::parse(&no.to_string()).unwrap(), no);
    assert!(no.to_string().contains("\nwhy the provider is not reviewed\n"));
}

#[test]
fn a_request_is_carried_with_what_it_means() {
    let request = format!("{}# + provider x 1.0.0\n", subject().to_request());
    assert_eq!(Subject::parse_request(&request).unwrap(), subject());
    let twice = format!("{request}{}", subject());
    assert!(Subject::parse_request(&twice).is_err());
    assert!(Subject::parse_request(&approve(1, NOW_S).to_string()).is_err());
}

#[test]
fn every_change_of_it_is_found() {
    for text in [approve(1, NOW_S).to_string(), reject(1, NOW_S).to_string()] {
        let good = Approval::parse(&text).unwrap();
        for at in 0..text.len() {
            let mut octets = text.clone().into_bytes();
            octets[at] = if octets[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(octets).unwrap();
            // The last digit of base64 has bits to spare, which a strict decoder refuses too.
            assert_ne!(Approval::parse(&changed).ok().as_ref(), Some(&good), "octet {at}: {changed}");
            assert!(Approval::parse(&changed).is_err(), "octet {at}: {changed}");
        }
        for line in 0..text.lines().count() {
            let rest: Vec<&str> =
                text.lines().enumerate().filter(|(at, _)| *at != line).map(|it| it.1).collect();
            assert!(Approval::parse(&rest.join("\n")).is_err(), "without line {line}");
        }
        assert!(Approval::parse(&format!("{text}why more\n")).is_err());
        assert!(Approval::parse(&text.replacen("main", "other", 1)).is_err());
    }
    let error = Approval::parse("hello").unwrap_err().to_string();
    assert!(error.contains("copy it whole"), "{error}");
    assert!(Approval::parse(&"x".repeat(APPROVAL_BYTES_MAX + 1)).is_err());
    for why in ["", " x", "a\nb", "a\u{7}b", &"x".repeat(501)] {
        let decision = Decision::Reject(why.to_owned());
        assert_eq!(key(1).sign(subject(), decision, (1, 2)), Err(ApprovalError::Why), "{why:?}");
    }
}

#[test]
fn two_are_two_people() {
    assert!(standing(&[]).is_enough(Quorum::Auto));
    assert!(!standing(&[]).is_enough(Quorum::One));
    let one = standing(&[approve(1, NOW_S)]);
    assert!(one.is_enough(Quorum::One) && !one.is_enough(Quorum::Two));
    // The same key twice is one.
    let again = standing(&[approve(1, NOW_S), approve(1, NOW_S - 7), approve(1, NOW_S)]);
    assert_eq!(again.approved.len(), 1);
    assert!(!again.is_enough(Quorum::Two));
    assert!(standing(&[approve(1, NOW_S), approve(2, NOW_S)]).is_enough(Quorum::Two));
}

#[test]
fn what_does_not_count() {
    let void = |approval: Approval, expected: &str| {
        let standing = standing(&[approval]);
        assert!(standing.approved.is_empty() && standing.rejected.is_empty());
        let text = standing.void[0].to_string();
        assert!(text.contains(expected), "{text}");
    };
    let of = |change: fn(&mut Subject)| {
        let mut subject = subject();
        change(&mut subject);
        key(1).sign(subject, Decision::Approve, (NOW_S, NOW_S + 1000)).unwrap()
    };
    void(of(|it| it.link = LinkId([8; 16])), "is for link 0808");
    void(of(|it| it.channel = "other".parse().unwrap()), "is for channel other, expected main");
    void(of(|it| it.number = ReleaseNo(11)), "is for release 11, expected 12");
    void(of(|it| it.index = Sha256::of(b"another")), "is for an index with digest");
    void(approve(9, NOW_S), "is of no approver that this receiver knows");
    void(approve(3, NOW_S), "the key of approver old expired");
    void(approve(1, NOW_S - 1000), "the approval of alice expired at second 1796000000");
    void(approve(1, NOW_S + 1000), "set the clock");
}

#[test]
fn the_newest_word_counts_and_a_rejection_stays() {
    let rejected = |approvals: &[Approval]| !standing(approvals).rejected.is_empty();
    assert!(rejected(&[approve(1, NOW_S - 5), reject(1, NOW_S)]));
    assert!(rejected(&[reject(1, NOW_S), approve(1, NOW_S - 5)]), "one from before is not brought back");
    assert!(rejected(&[approve(1, NOW_S), reject(1, NOW_S)]));
    assert!(!rejected(&[reject(1, NOW_S - 5), approve(1, NOW_S)]));
    // Time does not publish what was rejected.
    let old = [reject(1, NOW_S - 100_000)];
    assert!(rejected(&old) && !standing(&old).is_enough(Quorum::Auto));
    // Nor does the end of the key by which it was rejected.
    assert!(rejected(&[reject(3, NOW_S - 5)]) && !rejected(&[reject(3, NOW_S)]));
    // Nor do others.
    assert!(!standing(&[reject(1, NOW_S), approve(2, NOW_S)]).is_enough(Quorum::One));
}
