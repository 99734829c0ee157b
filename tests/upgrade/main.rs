//! The release before this tree, this tree in its place, and that release again: consumers see nothing of it, and what
//! changes between two such steps goes its way.

#[path = "../support/named.rs"]
mod named;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/turn.rs"]
mod turn;

mod newer;
mod roads;
mod scene;

/// The page on upgrades, held to its word.
#[test]
fn every_test_that_the_page_on_upgrades_names_is_there() {
    named::tests_named_in("docs/upgrades.md", 4, &["src", "tests"]);
}
