//! The text of the metrics.

use super::*;

fn lines(exposition: &Exposition) -> Vec<String> {
    exposition.text().lines().map(str::to_owned).collect()
}

fn assert_line(exposition: &Exposition, line: &str) {
    assert!(
        lines(exposition).iter().any(|it| it == line),
        "no {line} in:\n{}",
        exposition.text()
    );
}

#[test]
fn registry_counters_are_labelled_with_the_registry_name() {
    let (metrics, exposition) = Metrics::new();
    let registry = metrics.registry("default");
    registry.set_leader(true);
    registry.set_keys(500);
    registry.count_writes(KeyWrite::Put, 3);
    registry.count_writes(KeyWrite::Delete, 2);
    registry.count_writes(KeyWrite::Refused, 1);
    registry.count_fenced();
    registry.set_held(4);
    registry.set_denied(5);
    registry.count_guard_trip();
    registry.set_not_after(Some(1_900_000_000), None);
    assert_line(&exposition, r#"leasehold_leader{registry="default"} 1"#);
    assert_line(&exposition, r#"leasehold_connected{registry="default"} 0"#);
    assert_line(&exposition, r#"leasehold_keys{registry="default"} 500"#);
    for line in [
        r#"leasehold_key_writes_total{registry="default",kind="put"} 3"#,
        r#"leasehold_key_writes_total{registry="default",kind="delete"} 2"#,
        r#"leasehold_key_writes_total{registry="default",kind="refused"} 1"#,
        r#"leasehold_fenced_transactions_total{registry="default"} 1"#,
        r#"leasehold_lapsed_leases_total{registry="default"} 0"#,
        r#"leasehold_held_keys{registry="default"} 4"#,
        r#"leasehold_denied_scopes{registry="default"} 5"#,
        r#"leasehold_guard_trips_total{registry="default"} 1"#,
        r#"leasehold_leases_end_timestamp_seconds{registry="default"} 0"#,
        r#"leasehold_certificate_not_after_timestamp_seconds{registry="default",certificate="client"} 1900000000"#,
        r#"leasehold_certificate_not_after_timestamp_seconds{registry="default",certificate="authority"} 0"#,
    ] {
        assert_line(&exposition, line);
    }
}

#[test]
fn the_way_of_a_pod_is_timed_in_seconds() {
    let (metrics, exposition) = Metrics::new();
    metrics.set_pods(7);
    metrics.observe_ready_to_key(Duration::from_millis(3));
    assert_line(&exposition, "leasehold_pods 7");
    assert_line(&exposition, "leasehold_ready_to_key_seconds_count 1");
    assert_line(&exposition, r#"leasehold_ready_to_key_seconds_bucket{le="0.002"} 0"#);
    assert_line(&exposition, r#"leasehold_ready_to_key_seconds_bucket{le="0.004"} 1"#);
}

#[test]
fn every_metric_has_a_help_text() {
    let (metrics, exposition) = Metrics::new();
    metrics.registry("default");
    for line in lines(&exposition) {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|it| it.split(' ').next()) {
            assert!(name.starts_with("leasehold_"), "{name}");
            let help = format!("# HELP {name} ");
            assert!(
                lines(&exposition)
                    .iter()
                    .any(|it| it.len() > help.len() + 1 && it.starts_with(&help)),
                "{name} has no help text"
            );
        }
    }
}

#[test]
fn deleted_registry_is_hidden_and_a_recreated_one_starts_at_zero() {
    let (metrics, exposition) = Metrics::new();
    let first = metrics.registry("default");
    metrics.registry("other").set_leader(true);
    first.set_leader(true);
    first.count_writes(KeyWrite::Put, 3);
    metrics.forget("default");
    first.count_fenced();
    assert!(!exposition.text().contains("default"), "{}", exposition.text());
    assert_line(&exposition, r#"leasehold_leader{registry="other"} 1"#);
    metrics.registry("default");
    assert_line(
        &exposition,
        r#"leasehold_key_writes_total{registry="default",kind="put"} 0"#,
    );
    assert_line(&exposition, r#"leasehold_leader{registry="default"} 0"#);
}

#[tokio::test]
async fn texts_are_encoded_for_a_small_share_of_the_time_and_shared_meanwhile() {
    let (metrics, exposition) = Metrics::new();
    let encoded = |took: Duration, at: Instant| Encoded {
        text: Bytes::from_static(b"a moment ago"),
        at,
        took,
    };
    let now = Instant::now();
    let second = Duration::from_secs(1);
    for (took, age, good) in [(1, 19, true), (1, 20, false), (200, 999, true), (200, 1000, false)] {
        let encoded = encoded(Duration::from_millis(took), now);
        assert_eq!(
            encoded.is_good(now + Duration::from_millis(age)),
            good,
            "{took} ms, {age} ms ago"
        );
    }
    *exposition.last.lock().await = Some(encoded(second, Instant::now()));
    assert_eq!(exposition.recent().await, "a moment ago");
    *exposition.last.lock().await = None;
    metrics.set_pods(7);
    let text = exposition.recent().await;
    assert!(text.windows(16).any(|part| part == b"leasehold_pods 7"), "{text:?}");
}
