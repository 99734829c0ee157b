//! The table of failures, held to its word.

use crate::named::tests_named_in;

#[test]
fn every_test_that_the_table_of_failures_names_is_there() {
    tests_named_in("docs/failures.md", 50, &["src", "tests"]);
}
