//! The alerts, by Prometheus' own rule engine: each goes off for what it is there for, in time, and none does while all
//! is well.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use testbed::{Folder, Result, Tool};

use super::helm::{chart, helm};

/// The rule group as it is rendered, as a file of rules.
async fn rules() -> String {
    let chart = chart().display().to_string();
    let words = [
        "template",
        "try",
        &chart,
        "--show-only",
        "templates/rules.yaml",
        "--set",
        "metrics.rules.create=true",
    ];
    let rendered = helm(Path::new("/dev/null"), &words).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let (_, groups) = rendered.split_once("\nspec:\n").expect("a PrometheusRule has a spec");
    groups.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{}", line.strip_prefix("  ").unwrap_or(line));
        all
    })
}

/// What two healthy replicas of one Registry show, in steps of 5 s: `a` leads for two minutes, then `b` does. Both have
/// a certificate that is valid for years.
const HEALTHY: &[(&str, &str)] = &[
    ("leasehold_pods{pod='a'}", "9x400"),
    ("leasehold_pods{pod='b'}", "9x400"),
    ("leasehold_connected{pod='a',registry='default'}", "1x400"),
    // It starts again.
    ("leasehold_connected{pod='b',registry='default'}", "1x100 0x4 1x295"),
    ("leasehold_spec_not_adopted{pod='a',registry='default'}", "0x400"),
    ("leasehold_leader{pod='a',registry='default'}", "1x24 0x376"),
    ("leasehold_leader{pod='b',registry='default'}", "0x24 1x376"),
    ("leasehold_lapsed_leases_total{pod='a',registry='default'}", "0x400"),
    ("leasehold_backlog{pod='a',registry='default'}", "0x10 50x5 0x385"),
    (
        "leasehold_kubernetes_stale_since_timestamp_seconds{kind='pods',pod='a'}",
        "0x400",
    ),
    (
        "leasehold_certificate_not_after_timestamp_seconds{certificate='client',pod='a',registry='default'}",
        "1000000000x400",
    ),
];

/// What an alert is there for.
struct Case {
    alert: &'static str,
    /// Its labels, the name and the state excepted, as Prometheus writes them in order.
    labels: &'static str,
    /// What is shown in place of what [`HEALTHY`] shows, from the beginning on; and what is shown besides.
    input: &'static [(&'static str, &'static str)],
    /// When it does not go off yet, and when it has.
    seconds: (u32, u32),
}

/// The default TTL is 30 s, and a lease is renewed when a third of it has passed: 20 s after the last renewal by any
/// replica the first lease can lapse. A replica that loses its etcd shows so 3 s later, and is read every 5 s.
const CASES: &[Case] = &[
    Case {
        alert: "LeaseholdDown",
        labels: "severity='critical'",
        // All replicas die right after they were read at 60 s: the reading at 65 s fails.
        input: &[
            ("leasehold_pods{pod='a'}", "9x12 stale"),
            ("leasehold_pods{pod='b'}", "9x12 stale"),
            ("leasehold_connected{pod='a',registry='default'}", "1x12 stale"),
            ("leasehold_connected{pod='b',registry='default'}", "1x12 stale"),
            ("leasehold_leader{pod='a',registry='default'}", "1x12 stale"),
            ("leasehold_leader{pod='b',registry='default'}", "0x12 stale"),
        ],
        seconds: (60, 80),
    },
    Case {
        alert: "LeaseholdRegistryUnreachable",
        labels: "registry='default',severity='critical'",
        // The etcd dies right after 60 s, which shows from 63 s on.
        input: &[
            ("leasehold_connected{pod='a',registry='default'}", "1x12 0x200"),
            ("leasehold_connected{pod='b',registry='default'}", "1x12 0x200"),
        ],
        seconds: (60, 80),
    },
    // New replicas do not reach the Registry that the old ones reached: no replica reports a connection.
    Case {
        alert: "LeaseholdRegistryUnreachable",
        labels: "registry='default',severity='critical'",
        input: &[
            ("leasehold_connected{pod='a',registry='default'}", "1x12 stale"),
            ("leasehold_connected{pod='b',registry='default'}", "1x12 stale"),
            ("leasehold_connected{pod='c',registry='default'}", "_x6 0x200"),
            ("leasehold_connected{pod='d',registry='default'}", "_x8 0x200"),
        ],
        seconds: (60, 80),
    },
    Case {
        alert: "LeaseholdReplicaUnreachable",
        labels: "pod='b',registry='default',severity='warning'",
        input: &[("leasehold_connected{pod='b',registry='default'}", "1x12 0x200")],
        seconds: (120, 200),
    },
    Case {
        alert: "LeaseholdSpecNotAdopted",
        labels: "registry='default',severity='warning'",
        input: &[("leasehold_spec_not_adopted{pod='a',registry='default'}", "0x12 1x200")],
        seconds: (90, 140),
    },
    Case {
        alert: "LeaseholdNobodyLeads",
        labels: "registry='default',severity='critical'",
        input: &[
            ("leasehold_leader{pod='a',registry='default'}", "1x12 0x200"),
            ("leasehold_leader{pod='b',registry='default'}", "0x212"),
        ],
        seconds: (90, 140),
    },
    Case {
        alert: "LeaseholdKubernetesStale",
        labels: "kind='pods',severity='warning'",
        input: &[(
            "leasehold_kubernetes_stale_since_timestamp_seconds{kind='pods',pod='a'}",
            "0x12 60x300",
        )],
        seconds: (300, 380),
    },
    Case {
        alert: "LeaseholdLeasesLapse",
        labels: "pod='a',registry='default',severity='warning'",
        input: &[(
            "leasehold_lapsed_leases_total{pod='a',registry='default'}",
            "0x12 1x300",
        )],
        seconds: (60, 80),
    },
    Case {
        alert: "LeaseholdBacklog",
        labels: "registry='default',severity='warning'",
        input: &[("leasehold_backlog{pod='a',registry='default'}", "0x12 7x300")],
        seconds: (300, 400),
    },
    Case {
        alert: "LeaseholdCertificateEnds",
        labels: "certificate='client',registry='default',severity='warning'",
        // A week is 604,800 s, and the clock begins at 0.
        input: &[(
            "leasehold_certificate_not_after_timestamp_seconds{certificate='client',pod='a',registry='default'}",
            "604900x300",
        )],
        seconds: (60, 120),
    },
];

fn series(text: &mut String, input: &[(&str, &str)]) {
    for (series, values) in input {
        let _ = writeln!(text, "      - {{series: \"{series}\", values: \"{values}\"}}");
    }
}

/// Expects exactly these samples of an expression at a time.
fn expect(text: &mut String, expression: &str, second: u32, sample: Option<&str>) {
    let _ = writeln!(text, "      - expr: \"{expression}\"\n        eval_time: {second}s");
    if let Some(sample) = sample {
        let _ = writeln!(
            text,
            "        exp_samples:\n          - {{labels: \"{sample}\", value: 1}}"
        );
    }
}

fn tests() -> String {
    let mut text = "rule_files: [rules.yaml]\nevaluation_interval: 5s\ntests:\n".to_owned();
    let begin = "  - interval: 5s\n    input_series:\n";
    text.push_str(begin);
    series(&mut text, HEALTHY);
    text.push_str("    promql_expr_test:\n");
    for second in (30..2000).step_by(30) {
        expect(&mut text, "ALERTS{alertstate='firing'}", second, None);
    }
    for case in CASES {
        text.push_str(begin);
        series(&mut text, case.input);
        let healthy: Vec<_> = HEALTHY
            .iter()
            .filter(|(name, _)| case.input.iter().all(|(other, _)| other != name))
            .copied()
            .collect();
        series(&mut text, &healthy);
        text.push_str("    promql_expr_test:\n");
        let expression = format!("ALERTS{{alertstate='firing',alertname='{}'}}", case.alert);
        let sample = format!(
            "ALERTS{{alertname='{}',alertstate='firing',{}}}",
            case.alert, case.labels
        );
        expect(&mut text, &expression, case.seconds.0, None);
        expect(&mut text, &expression, case.seconds.1, Some(&sample));
    }
    text
}

fn promtool(folder: &Path, words: &[&str]) -> std::result::Result<String, String> {
    let binary = Tool::Promtool.binary().expect("promtool is built");
    let output = Command::new(binary).args(words).current_dir(folder).output();
    let output = output.expect("promtool runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[tokio::test]
async fn each_alert_fires_in_time_for_its_fault_and_none_while_all_is_well() -> Result<()> {
    let rules = rules().await;
    let names: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let tried: BTreeSet<&str> = CASES.iter().map(|case| case.alert).collect();
    assert_eq!(names, tried, "each alert has its case");
    let folder = Folder::new("alerts")?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("the folder is ours");
    write("rules.yaml", &rules);
    write("tests.yaml", &tests());
    let path = folder.path().to_owned();
    let said = tokio::task::spawn_blocking(move || {
        promtool(&path, &["check", "rules", "--lint-fatal", "rules.yaml"])?;
        promtool(&path, &["test", "rules", "tests.yaml"])
    });
    let said = said.await.expect("no panic");
    said.unwrap_or_else(|error| panic!("{error}\n{}\n{rules}", tests()));
    Ok(())
}
