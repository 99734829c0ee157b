//! Pages that name tests, held to their word.

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

/// The tests that the page at `path` names, more than `more_than` of them; panics unless each is in one of `folders`.
pub fn tests_named_in(path: &str, more_than: usize, folders: &[&str]) -> (String, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join(path)).expect("it is there");
    let mut text = String::new();
    for folder in folders {
        sources(&root.join(folder), &mut text);
    }
    // Every other piece between backticks is in them; a test's name is a sentence.
    let quoted = page.split('`').skip(1).step_by(2);
    let named = quoted.filter(|piece| piece.matches('_').count() >= 4);
    let tests: Vec<String> = named.map(str::to_owned).collect();
    assert!(tests.len() > more_than, "{tests:?}");
    let missing: Vec<&String> = tests
        .iter()
        .filter(|name| !text.contains(&format!("fn {name}(")))
        .collect();
    assert_eq!(missing, [] as [&String; 0]);
    (page, tests)
}
