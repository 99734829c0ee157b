//! The findings of `leasehold doctor`, as text and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Grade {
    /// No problem.
    Well,
    /// Works, but possibly not for long or not for all users.
    Warning,
    /// Does not work.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub grade: Grade,
    pub what: String,
    /// The suggested fix, if there is anything to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    pub fn well(what: impl Into<String>) -> Self {
        Self {
            grade: Grade::Well,
            what: what.into(),
            fix: None,
        }
    }

    pub fn warning(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warning,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    pub fn problem(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            grade: Grade::Problem,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }
}

/// The findings about one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chapter {
    /// The component.
    pub about: String,
    /// The findings in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Returns the highest severity of all findings.
pub fn worst(chapters: &[Chapter]) -> Grade {
    let all = chapters.iter().flat_map(|chapter| &chapter.findings);
    all.map(|finding| finding.grade).max().unwrap_or(Grade::Well)
}

/// Returns lines for people: problems stand out, and each has a suggested fix.
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
        "{} problems, {} warnings, {} ok",
        count(Grade::Problem),
        count(Grade::Warning),
        count(Grade::Well)
    );
    line(&mut out, &summary);
    out
}

/// Returns the findings as JSON, for programs.
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
             full\n          fix: make room\n1 problems, 1 warnings, 1 ok\n"
        );
        let output: serde_json::Value = serde_json::from_str(&json(&chapters)).expect("JSON");
        assert_eq!(output["worst"], "problem");
        assert_eq!(output["chapters"][1]["findings"][1]["fix"], "make room");
    }
}
