//! The table of failures, held to its word.

use std::path::Path;

/// The text of every Rust file below a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("it is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_test_that_the_table_of_failures_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/failures.md")).expect("it is there");
    let mut text = String::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut text);
    }
    // Every other piece between backticks is in them; a test's name is a sentence.
    let quoted = table.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = quoted.filter(|piece| piece.matches('_').count() >= 4).collect();
    assert!(tests.len() > 50, "{tests:?}");
    let missing: Vec<&&str> = tests
        .iter()
        .filter(|name| !text.contains(&format!("fn {name}(")))
        .collect();
    assert_eq!(missing, [] as [&&str; 0]);
}
