//! What the rules allow, and the reasons given for what they deny.

use super::*;

fn rule(name: &str, prefixes: &[&str]) -> Rule {
    Rule {
        name: name.into(),
        prefixes: Some(prefixes.iter().map(|prefix| Arc::from(*prefix)).collect()),
        ..Rule::default()
    }
}

fn namespace_policy(rules: &[Rule], labels: &[(&str, &'static str)]) -> NamespacePolicy {
    let policy = Policy { rules: rules.to_vec() };
    let label = |key: &str| labels.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
    policy.namespace_policy(&"shop".into(), label)
}

fn pass(rules: &[Rule]) -> PrefixGrant {
    namespace_policy(rules, &[]).pass(FormatType::Plain, 30)
}

fn reported(denied: Result<(), Denial>) -> String {
    denied.expect_err("it is denied").to_string()
}

#[test]
fn a_prefix_ends_where_a_segment_does() {
    let pass = pass(&[rule("shops", &["/services/shop", "kitex/shop"])]);
    for key in ["/services/shop/orders/a", "/services/shop", "kitex/shop/1.2.3.4:80"] {
        assert_eq!(pass.check(key), Ok(()), "{key}");
    }
    for key in [
        "/services/shop-evil/a",
        "/services/shopping",
        "/services",
        "services/shop/a",
        "/kitex/shop/a",
        "/x/services/shop/a",
    ] {
        let reported = reported(pass.check(key));
        assert!(
            reported.contains("the rule shops") && reported.contains("/services/shop or kitex/shop"),
            "{reported}"
        );
    }
}

#[test]
fn a_key_that_may_be_taken_for_another_one_is_refused() {
    let anywhere = Rule {
        prefixes: None,
        ..rule("all", &[])
    };
    for pass in [pass(&[anywhere]), pass(&[rule("shops", &["/services/shop"])])] {
        for key in [
            "/services/shop/../admin/a",
            "/services/shop/./a",
            "/services/shop//a",
            "//services/shop/a",
            "/services/shop/a/",
            "/services/shop/a\u{0}b",
            "/services/shop/a\nb",
            "/services/shop/a b",
            "/services/shop/\u{202e}a",
            "/services/sh\u{43e}p/a",
            "/services/shop\u{2044}a",
            "/services/shop/\u{ff0e}\u{ff0e}/a",
            "",
            "/",
        ] {
            assert!(matches!(pass.check(key), Err(Denial::Unclean { .. })), "{key:?}");
        }
    }
}

#[test]
fn the_namespace_is_filled_in_and_nothing_else() {
    let pass = pass(&[rule("own", &["/services/{{namespace}}", "/{{name}}"])]);
    assert_eq!(pass.check("/services/shop/a"), Ok(()));
    assert!(pass.check("/services/{{namespace}}/a").is_err());
    assert!(pass.check("/shop/a").is_err());
}

#[test]
fn slash_prefix_allows_keys_with_leading_slash_and_no_prefixes_all() {
    let slash = pass(&[rule("slash", &["/"])]);
    assert_eq!(slash.check("/a/b"), Ok(()));
    assert!(slash.check("a/b").is_err());
    let all = pass(&[Rule {
        prefixes: None,
        ..rule("all", &[])
    }]);
    assert_eq!((all.check("/a/b"), all.check("a/b")), (Ok(()), Ok(())));
    assert!(pass(&[rule("empty", &[""])]).check("/a").is_err());
    assert!(pass(&[rule("none", &[])]).check("/a").is_err());
}

#[test]
fn one_rule_must_allow_all_of_it() {
    let plain = Rule {
        formats: Some(vec![FormatType::Plain]),
        ..rule("plain", &["/services"])
    };
    let go_zero = Rule {
        formats: Some(vec![FormatType::GoZero]),
        ttl: Some((15, 60)),
        ..rule("go-zero", &["zero"])
    };
    let namespace_policy = namespace_policy(&[plain, go_zero], &[]);
    assert_eq!(
        namespace_policy.pass(FormatType::Plain, 200).check("/services/a"),
        Ok(())
    );
    assert!(namespace_policy.pass(FormatType::Plain, 30).check("zero/a").is_err());
    assert_eq!(namespace_policy.pass(FormatType::GoZero, 60).check("zero/a"), Ok(()));
    let ttl = reported(namespace_policy.pass(FormatType::GoZero, 61).check("zero/a"));
    assert!(ttl.contains("the rule go-zero") && ttl.contains("15 to 60"), "{ttl}");
    let format = reported(namespace_policy.pass(FormatType::Kitex, 30).check("zero/a"));
    assert!(
        format.contains("Kitex") && format.contains("Plain or GoZero"),
        "{format}"
    );
}

#[test]
fn a_namespace_that_no_rule_is_for_writes_nothing() {
    let mut shops = rule("shops", &["/services"]);
    shops.namespaces.match_labels = [("team".into(), "shop".into())].into();
    let none = reported(
        namespace_policy(std::slice::from_ref(&shops), &[])
            .pass(FormatType::Plain, 30)
            .check("/services/a"),
    );
    assert!(none.contains("the namespace shop"), "{none}");
    let labelled = namespace_policy(&[shops], &[("team", "shop")]);
    assert_eq!(labelled.pass(FormatType::Plain, 30).check("/services/a"), Ok(()));
    assert_eq!(namespace_policy(&[], &[]).quota(), None);
}

#[test]
fn the_most_generous_rule_says_how_many_keys() {
    let of = |keys| Rule { keys, ..rule("r", &[]) };
    let quota = |rules: &[Rule]| namespace_policy(rules, &[]).quota().map(|quota| quota.keys);
    assert_eq!(quota(&[of(Some(3)), of(Some(5))]), Some(5));
    assert_eq!(quota(&[of(Some(3)), of(None)]), None);
}

#[test]
fn a_prefix_is_refused_when_no_key_in_it_can_be_allowed() {
    let pass = pass(&[rule("shops", &["/services/shop", "/services/other/x"])]);
    let check = |prefix: &str| pass.check_prefix(&Prefix::below(prefix)).is_ok();
    assert!(check("/services/shop") && check("/services/shop/orders"));
    assert!(check("/services/other"), "a key below x may be");
    assert!(!check("/services/shop-evil") && !check("/services/others") && !check("/services/shop/.."));
    assert!(reported(pass.check_prefix(&Prefix::below("/b"))).contains("write /b:"));
}
