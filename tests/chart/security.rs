//! The security page, held to its word.

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
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("SECURITY.md")).expect("it is there");
    let mut text = String::new();
    for folder in ["src", "tests", "xtask"] {
        sources(&root.join(folder), &mut text);
    }
    // Every other piece between backticks is in them; a test's name is a sentence.
    let quoted = page.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = quoted.filter(|piece| piece.matches('_').count() >= 4).collect();
    assert!(tests.len() > 20, "{tests:?}");
    let missing: Vec<&&str> = tests
        .iter()
        .filter(|name| !text.contains(&format!("fn {name}(")))
        .collect();
    assert_eq!(missing, [] as [&&str; 0]);
    // A part without one makes a claim that nothing holds.
    let people = page.split("\n### ").skip(1);
    for part in people.map(|part| part.split("\n## ").next().unwrap_or(part)) {
        let named = tests.iter().any(|test| part.contains(test));
        assert!(named, "no test holds: {}", part.lines().next().unwrap_or_default());
    }
}
