//! What a run prints: a table, and for violations the events around the first one of each kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    time::Duration,
};

use super::{
    checker::{Latencies, Sample, Verdict, Violation, percentile},
    desired::Desired,
    holders::is_data,
    record::{FaultKind, Gate, Moment, Record, Sight, Span},
    scene::Tally,
};
use crate::error::{Result, doing};

/// How long before a violation its report begins, and how long after it ends.
const BEFORE: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(5);
/// The most events of a key in a report.
const EVENTS: usize = 16;

/// What was done and seen, in columns.
pub fn table(record: &Record, verdict: &Verdict, actions: &BTreeMap<&'static str, Tally>) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "  {name:<46} {value}");
    };
    let faults = FaultKind::ALL.map(|kind| (kind, record.faults.iter().filter(|fault| fault.kind == kind).count()));
    for (kind, count) in faults.iter().filter(|(_, count)| *count > 0) {
        row(&kind.to_string(), count);
    }
    row("faults, total", &record.faults.len());
    for (name, tally) in actions {
        match tally.failed {
            0 => row(name, &tally.tried),
            failed => row(name, &format!("{} ({failed} failed)", tally.tried)),
        }
    }
    row(
        "actions, total",
        &actions.values().map(|tally| tally.tried).sum::<usize>(),
    );
    row("events on data keys, all checked", &verdict.events);
    row("data keys", &verdict.keys);
    row("changes observed in Kubernetes", &record.kubernetes.len());
    row("quiet periods", &record.quiets.len());
    row("keys that expired with their lease, as allowed", &verdict.lapses);
    row("writes hidden by a gap in the record", &verdict.unjudged);
    row("time with a quota used up, s", &verdict.quota_used_up.as_secs());
    let Latencies { to_key, to_gone } = &verdict.latencies;
    row("ready to key, ms: p50 p99 max (count)", &quantiles(to_key));
    row("unready to removal, ms: p50 p99 max (count)", &quantiles(to_gone));
    let opened = |gate| {
        let sights = record.kubernetes.iter().filter_map(|sighting| match &sighting.sight {
            Sight::Pod(name, Some(pod)) if pod.gate == Some(gate) => Some(name),
            _ => None,
        });
        sights.collect::<BTreeSet<_>>().len()
    };
    row(
        "pods whose gate opened when they were registered",
        &opened(Gate::Registered),
    );
    row(
        "pods whose gate opened because none selected them",
        &opened(Gate::NotSelected),
    );
    row(
        "pods whose gate opened after the maximum wait",
        &opened(Gate::WaitedTooLong),
    );
    row("violations", &verdict.violations.len());
    text
}

fn quantiles(sorted: &[Sample]) -> String {
    let of = |of_hundred| {
        percentile(sorted, of_hundred).map_or_else(|| "-".to_owned(), |one| one.took.as_millis().to_string())
    };
    let slowest = sorted.last().map_or_else(String::new, |slowest| {
        format!(", the slowest {} at {:.3} s", slowest.key, slowest.at.as_secs_f64())
    });
    format!("{} {} {} ({}){slowest}", of(50), of(99), of(100), sorted.len())
}

/// The first violation of each kind, with what happened to the key and what was broken around it.
pub fn stories(record: &Record, violations: &[Violation]) -> String {
    let desired = Desired::of(&record.kubernetes);
    let mut text = String::new();
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    for violation in violations {
        *by_kind.entry(violation.kind.to_string()).or_default() += 1;
    }
    let counts: Vec<_> = by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let _ = writeln!(text, "{} violations: {}", violations.len(), counts.join(", "));
    // The first of each kind: one cause often has many effects.
    let mut reported = BTreeSet::new();
    for violation in violations.iter().filter(|violation| reported.insert(violation.kind)) {
        let _ = write!(text, "\n{}", story(record, &desired, violation));
    }
    text
}

fn story(record: &Record, desired: &Desired, violation: &Violation) -> String {
    let around = Span {
        from: violation.at.saturating_sub(BEFORE),
        to: violation.at + AFTER,
    };
    let mut lines: Vec<(Moment, String)> = Vec::new();
    if let Some(key) = &violation.key {
        let events = record.etcd.iter().filter(|(_, event)| event.key == *key);
        lines.extend(events.map(|(at, event)| (*at, format!("etcd        {event} (revision {})", event.revision))));
        let wanted = desired.of_key(key).iter().skip(1);
        lines.extend(wanted.map(|wanted_value| {
            let value = wanted_value.value.as_deref().unwrap_or("absent");
            (wanted_value.from, format!("Kubernetes  should be {value}"))
        }));
    }
    lines.sort_by_key(|(at, _)| *at);
    lines.retain(|(at, _)| around.from <= *at && *at <= around.to);
    let first = lines.len().saturating_sub(EVENTS);
    let mut lines = lines.split_off(first);
    let leaders = record.etcd.iter().filter(|(_, event)| event.key.ends_with("/leader"));
    lines.extend(leaders.map(|(at, event)| (*at, format!("leader      {event} (revision {})", event.revision))));
    for fault in &record.faults {
        if fault.span.from <= around.to && fault.span.to >= around.from {
            lines.push((fault.span.from, format!("fault       {}: {}", fault.kind, fault.target)));
            lines.push((fault.span.to, format!("repaired    {}: {}", fault.kind, fault.target)));
        }
    }
    lines.push((
        violation.at,
        format!(">>>         {}: {}", violation.kind, violation.why),
    ));
    lines.sort_by_key(|(at, _)| *at);
    lines.retain(|(at, _)| around.from <= *at && *at <= around.to);

    let mut text = format!("{} at {:.3} s\n", violation.kind, violation.at.as_secs_f64());
    if let Some(key) = &violation.key {
        let subject = desired.subject_of(key).unwrap_or("no observed object");
        let _ = writeln!(text, "  key {key}\n  of {subject}");
    }
    for (at, line) in lines {
        let _ = writeln!(text, "  {:9.3} s  {line}", at.as_secs_f64());
    }
    text
}

/// Keeps everything that was seen, line by line, and the processes' logs, in a folder.
pub fn keep(record: &Record, logs: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(doing(format!("create the folder {}", folder.display())))?;
    let mut lines: Vec<(Moment, String)> = Vec::new();
    for (at, event) in &record.etcd {
        let what = if is_data(&event.key) { "etcd" } else { "meta" };
        lines.push((*at, format!("{what}        {event} (revision {})", event.revision)));
    }
    let sightings = record.kubernetes.iter();
    lines.extend(sightings.map(|sighting| (sighting.at, format!("kubernetes  {:?}", sighting.sight))));
    for fault in &record.faults {
        lines.push((fault.span.from, format!("fault       {}: {}", fault.kind, fault.target)));
        lines.push((fault.span.to, format!("repaired    {}: {}", fault.kind, fault.target)));
    }
    lines.extend(
        record
            .gaps
            .iter()
            .map(|gap| (gap.from, format!("gap         until {:?}", gap.to))),
    );
    lines.extend(
        record
            .quiets
            .iter()
            .map(|quiet| (quiet.from, format!("quiet       until {:?}", quiet.to))),
    );
    let foreign_writes = record.foreign_writes.iter();
    lines.extend(foreign_writes.map(|foreign_write| (foreign_write.at, format!("foreign     {foreign_write:?}"))));
    lines.sort_by_key(|(at, _)| *at);
    let mut text = String::new();
    for (at, line) in lines {
        let _ = writeln!(text, "{:9.3} {line}", at.as_secs_f64());
    }
    let history = folder.join("history.txt");
    std::fs::write(&history, text).map_err(doing(format!("write {}", history.display())))?;
    let entries = std::fs::read_dir(logs).map_err(doing(format!("list {}", logs.display())))?;
    for entry in entries.flatten() {
        let to = folder.join(entry.file_name());
        std::fs::copy(entry.path(), &to).map_err(doing(format!("write {}", to.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use testbed::{Event, Kind as What};

    use super::*;
    use crate::chaos::{
        checker::Kind,
        record::{Fault, Sight, Sighting},
        wanted::tests::{pod, registration},
    };

    #[test]
    fn violation_report_shows_only_its_key_and_nearby_faults() {
        let at = Duration::from_secs;
        let key = "/services/shop/orders/a";
        let event = |key: &str| Event {
            revision: 7,
            key: key.to_owned(),
            kind: What::Delete,
        };
        let fault = |kind, from, to| Fault {
            kind,
            target: "one".to_owned(),
            span: Span {
                from: at(from),
                to: at(to),
            },
            halts: false,
            relieved: false,
            registry: None,
        };
        let registered = registration(&serde_json::json!({}));
        let sights = [
            Sight::Registration("orders".to_owned(), Some(registered)),
            Sight::Pod("a".to_owned(), Some(pod(true))),
        ];
        let record = Record {
            end: at(100),
            etcd: vec![(at(50), event(key)), (at(50), event("/services/shop/orders/b"))],
            kubernetes: sights.map(|sight| Sighting { at: at(40), sight }).into(),
            faults: vec![
                fault(FaultKind::MemberKill, 1, 2),
                fault(FaultKind::ApiserverPause, 45, 49),
            ],
            ..Record::default()
        };
        let violation = |kind| Violation {
            kind,
            key: Some(key.to_owned()),
            at: at(50),
            why: "so".to_owned(),
        };
        let text = stories(&record, &[violation(Kind::Flap), violation(Kind::Flap)]);
        let expected = "2 violations: 2 flap\n\nflap at 50.000 s\n  key /services/shop/orders/a\n  of a\n     \
                        40.000 s  Kubernetes  should be 10.0.0.7:8080\n     \
                        45.000 s  fault       kube-apiserver paused: one\n     \
                        49.000 s  repaired    kube-apiserver paused: one\n     \
                        50.000 s  etcd        delete /services/shop/orders/a (revision 7)\n     \
                        50.000 s  >>>         flap: so\n";
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&text), lines(expected));
    }
}
