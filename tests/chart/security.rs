//! The security page, held to its word.

use crate::named::tests_named_in;

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let (page, tests) = tests_named_in("SECURITY.md", 20, &["src", "tests", "xtask"]);
    // A part without one makes a claim that nothing holds.
    let people = page.split("\n### ").skip(1);
    for part in people.map(|part| part.split("\n## ").next().unwrap_or(part)) {
        let named = tests.iter().any(|test| part.contains(test));
        assert!(named, "no test holds: {}", part.lines().next().unwrap_or_default());
    }
}
