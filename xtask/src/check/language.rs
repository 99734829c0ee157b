//! Words that this project's names, comments and documentation avoid: no search finds them, and they hide the subject.

use std::fs;

use super::{Step, workspace};
use crate::error::Result;

/// Each word and what to write instead.
const BANNED: &[(&str, &str)] = &[
    ("told", "reported, sent, passed"),
    ("tells of", "reports, describes"),
    ("heard", "received, observed, cached"),
    ("whom", "name the component"),
    ("whoever", "name the component"),
    ("mend", "fix, repair"),
    ("mended", "fixed, repaired"),
    ("anew", "again"),
    ("left out,", "say what the default is"),
];

/// Words that no identifier contains, and what to write instead.
const BANNED_IN_NAMES: &[(&str, &str)] = &[
    ("told", "reported"),
    ("heard", "observed, reached"),
    ("hearing", "checkpoint"),
    ("news", "event"),
    ("aside", "suppressed"),
    ("doubt", "unconfirmed"),
    ("doubts", "unconfirmed"),
    ("doubtful", "unconfirmed"),
    ("suspect", "candidate, unconfirmed"),
    ("suspects", "candidates, unconfirmed"),
    ("sweep", "orphan collection"),
    ("mended", "fixed"),
    ("anew", "again"),
    ("nobody", "name the component"),
    ("somebody", "name the component"),
    ("whoever", "name the component"),
    ("whom", "name the component"),
];

/// Folders of Rust code. Comments are checked in these, too.
const CODE: &[&str] = &["src/", "xtask/", "tests/", "benches/"];

/// Files and folders of prose.
const PROSE: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/",
    "charts/",
    "crds/",
];

/// Looks through the prose, and through the names and comments of the code.
pub(super) fn check(step: &Step) -> Result<()> {
    let mut found = Vec::new();
    for file in super::kept_files()? {
        let is_prose = PROSE.iter().any(|prose| file.starts_with(prose));
        let is_code = super::is_rust(&file) && CODE.iter().any(|folder| file.starts_with(folder));
        if !is_prose && !is_code {
            continue;
        }
        // What is no text has no words.
        let Ok(text) = fs::read_to_string(workspace().join(&file)) else {
            continue;
        };
        found.extend(violations(&text, is_code).map(|words| format!("{file}:{words}")));
        if is_code {
            found.extend(names(&text).map(|words| format!("{file}:{words}")));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(step.failed(format!("words to avoid:\n  {}", found.join("\n  "))))
}

/// The banned words of a text, each as `LINE: "WORD": what to write`; of code in comments only. What is quoted in
/// backticks is somebody's name or output.
fn violations(text: &str, comments_only: bool) -> impl Iterator<Item = String> + '_ {
    let mut is_block = false;
    text.lines().enumerate().flat_map(move |(i, line)| {
        if !comments_only && line.trim_start().starts_with("```") {
            is_block = !is_block;
        }
        let words = match line {
            _ if is_block => "",
            line if comments_only => split_comment(line).1,
            line => line,
        };
        let words = unquoted(words).to_lowercase();
        let banned = BANNED.iter().filter(move |(word, _)| contains_word(&words, word));
        banned.map(move |(word, instead)| format!("{}: \"{word}\": {instead}", i + 1))
    })
}

/// The banned words in the identifiers of Rust code, each as `LINE: "WORD": what to write`. Strings are not checked; a raw
/// string may contain quotes, so its first line is not checked at all.
fn names(text: &str) -> impl Iterator<Item = String> + '_ {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.contains("r#\""));
    lines.flat_map(|(i, line)| {
        let (code, _) = split_comment(line);
        let code = code.replace("\\\"", "").replace("'\"'", "");
        let words: Vec<String> = code.split('"').step_by(2).flat_map(words_of_names).collect();
        let banned = BANNED_IN_NAMES
            .iter()
            .filter(move |(word, _)| words.iter().any(|found| found == word));
        banned.map(move |(word, instead)| format!("{}: \"{word}\" in a name: {instead}", i + 1))
    })
}

/// Splits a line of Rust code before its comment. A `//` in a string begins none.
fn split_comment(line: &str) -> (&str, &str) {
    let is_outside = |(at, _): &(usize, &str)| {
        let before = line[..*at].replace("\\\"", "").replace("'\"'", "");
        before.matches('"').count().is_multiple_of(2)
    };
    let comment = line.match_indices("//").find(is_outside);
    line.split_at(comment.map_or(line.len(), |(at, _)| at))
}

/// The words of snake case and camel case identifiers, in lower case.
fn words_of_names(code: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in code.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// A line without what is in backticks.
fn unquoted(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

fn contains_word(text: &str, word: &str) -> bool {
    let is_boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    text.match_indices(word).any(|(at, _)| {
        let after = text[at + word.len()..].chars().next();
        is_boundary(text[..at].chars().next_back()) && (!word.ends_with(char::is_alphabetic) || is_boundary(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, comments_only: bool) -> Vec<String> {
        let found = violations(text, comments_only);
        found
            .map(|found| found.split(':').take(2).collect::<Vec<_>>().join(":"))
            .collect()
    }

    #[test]
    fn banned_words_of_prose_are_found_outside_of_quotes_and_blocks() {
        let text = "What is told.\nIt is `told`, untold and told_of.\n```\ntold\n```\nLeft out, it is 3.\nRead anew";
        assert_eq!(lines(text, false), ["1: \"told\"", "6: \"left out,\"", "7: \"anew\""]);
    }

    #[test]
    fn of_code_only_comments_are_read() {
        let text = "let told = 1; // is told\n/// Whoever leads.\nlet heard = told;\nlet a = \"// told\"; // anew";
        assert_eq!(lines(text, true), ["1: \"told\"", "2: \"whoever\"", "4: \"anew\""]);
    }

    #[test]
    fn banned_words_are_found_in_parts_of_names_and_not_in_strings() {
        let text = "struct NewsDesk;\nlet is_told = f(\"told\"); // anew\nlet untold = r#\"{\"heard\"}\"#;\nfn doubt_TOLD() {}";
        let found: Vec<String> = names(text).collect();
        let of = |word: &str, line: usize| {
            let (_, instead) = BANNED_IN_NAMES
                .iter()
                .find(|(banned, _)| *banned == word)
                .expect("banned");
            format!("{line}: \"{word}\" in a name: {instead}")
        };
        assert_eq!(found, [of("news", 1), of("told", 2), of("told", 4), of("doubt", 4)]);
    }
}
