//! What an examination finds, in words and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Grade {
    /// As it should be.
    Well,
    /// It works, and may not for long, or not for everybody.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub what: String,
    /// What to do about it; none where nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn well(what: impl Into<String>) -> Self {
        Self {
            grade: Grade::Well,
            what: what.into(),
            fix: None,
        }
    }

    /// It works, and may not for long.
    pub fn warning(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warning,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    /// It does not work.
    pub fn problem(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            grade: Grade::Problem,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }
}

/// What was found in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chapter {
    /// The place.
    pub about: String,
    /// All of it, in the order in which it was looked at.
    pub findings: Vec<Finding>,
}

/// The worst of all.
pub fn worst(chapters: &[Chapter]) -> Grade {
    let all = chapters.iter().flat_map(|chapter| &chapter.findings);
    all.map(|finding| finding.grade).max().unwrap_or(Grade::Well)
}

/// Lines for people: problems stand out, and each says what to do.
pub fn text(chapters: &[Chapter]) -> String {
    let mut out = String::new();
    for chapter in chapters {
        line(&mut out, &chapter.about);
        for finding in &chapter.findings {
            let sign = match finding.grade {
                Grade::Well => "ok     ",
                Grade::Warning => "WARNING",
                Grade::Problem => "PROBLEM",
            };
            line(&mut out, &format!("  {sign} {}", finding.what));
            if let Some(fix) = &finding.fix {
                line(&mut out, &format!("          fix: {fix}"));
            }
        }
    }
    let count = |grade: Grade| {
        let all = chapters.iter().flat_map(|chapter| &chapter.findings);
        all.filter(|finding| finding.grade == grade).count()
    };
    let summary = format!(
        "{} problems, {} warnings, {} well",
        count(Grade::Problem),
        count(Grade::Warning),
        count(Grade::Well)
    );
    line(&mut out, &summary);
    out
}

/// The same for programs.
pub fn json(chapters: &[Chapter]) -> String {
    let whole = serde_json::json!({"worst": worst(chapters), "chapters": chapters});
    format!("{whole:#}\n")
}

fn line(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_out_and_says_what_to_do() {
        let chapters = [
            Chapter {
                about: "Kubernetes".to_owned(),
                findings: vec![Finding::well("it answers")],
            },
            Chapter {
                about: "Registry default".to_owned(),
                findings: vec![
                    Finding::warning("etcd 3.4 is old", "upgrade it"),
                    Finding::problem("etcd is full", "make room"),
                ],
            },
        ];
        assert_eq!(worst(&chapters), Grade::Problem);
        assert_eq!(worst(&chapters[..1]), Grade::Well);
        assert_eq!(
            text(&chapters),
            "Kubernetes\n  ok      it answers\nRegistry default\n  WARNING etcd 3.4 is old\n          fix: upgrade it\n  PROBLEM etcd is \
             full\n          fix: make room\n1 problems, 1 warnings, 1 well\n"
        );
        let told: serde_json::Value = serde_json::from_str(&json(&chapters)).expect("JSON");
        assert_eq!(told["worst"], "problem");
        assert_eq!(told["chapters"][1]["findings"][1]["fix"], "make room");
    }
}
