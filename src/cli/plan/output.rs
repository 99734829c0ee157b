//! Prints a plan as text and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Compared, Plan};
use crate::controller::{Change, Outcome};
use crate::model::listed;
use crate::plan::{Conflict, Holder};

/// Maximum number of waiting pods that are named.
const NAMED: usize = 3;

/// Returns one line per key, with the marks of diff tools.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    for outcome in &plan.outcomes {
        print(&mut out, outcome);
    }
    for (registration, cause) in &plan.refused {
        line(
            &mut out,
            format_args!("{registration}: the operator would reject it: {cause}"),
        );
    }
    for registry in &plan.other_etcd {
        line(
            &mut out,
            format_args!(
                "(spec.etcd of the Registry {registry} differs: compared with the etcd in use; the operator tests other settings before it uses them)"
            ),
        );
    }
    let count = |sign: char| {
        let keys = plan.outcomes.iter().flat_map(|outcome| outcome.keys.values());
        keys.filter(|change| shown(change).sign == sign).count()
    };
    line(
        &mut out,
        format_args!(
            "{} to create, {} to replace, {} to move, {} to remove, {} unchanged",
            count('+'),
            count('~'),
            count('>'),
            count('-'),
            count('=')
        ),
    );
    if plan.compared == Compared::Nothing {
        line(
            &mut out,
            format_args!("(offline: compared with an empty etcd; neither Kubernetes nor etcd was queried)"),
        );
    }
    out
}

fn print(out: &mut String, outcome: &Outcome) {
    let Outcome {
        registration,
        kind,
        selected,
        ready,
        ..
    } = outcome;
    let what = kind.plural();
    line(
        out,
        format_args!("{registration}: {ready} of {selected} selected {what} are ready"),
    );
    if outcome.suspended {
        line(
            out,
            format_args!("  (frozen: nothing is changed until spec.updatePolicy is Sync)"),
        );
    }
    for (key, change) in &outcome.keys {
        let shown = shown(change);
        let now = shown.after.or(shown.before).map(printable).unwrap_or_default();
        line(out, format_args!("  {} {key}  {now}", shown.sign));
        if let (Some(before), Some(_)) = (shown.before, shown.after) {
            if shown.sign == '~' {
                line(out, format_args!("      was {}", printable(before)));
            } else if shown.sign == '>' {
                line(out, format_args!("      now on a lease with another TTL"));
            }
        }
    }
    for conflict in &outcome.conflicts {
        line(
            out,
            format_args!("  ! {}  is left unchanged: held by {}", conflict.key, holder(conflict)),
        );
    }
    if !outcome.waiting.is_empty() {
        let pods = listed(&outcome.waiting, NAMED, "and");
        line(
            out,
            format_args!("  (not registered yet, because of spec.minReadySeconds: {pods})"),
        );
    }
    if let Some(pod) = &outcome.kept {
        line(
            out,
            format_args!(
                "  (the endpoint of {pod}, which is not ready, is kept as the last one: spec.lastEndpoint is Keep)"
            ),
        );
    }
    if !outcome.held.is_empty() {
        let keys = outcome.held.len();
        line(
            out,
            format_args!(
                "  (the Registry's guard would hold back {keys} of these removals until pods are back, the hold expires or a user approves)"
            ),
        );
    }
    for (problem, pods) in &outcome.problems {
        if pods.is_empty() {
            line(out, format_args!("  ? {problem}"));
        } else {
            line(out, format_args!("  ? {problem} (pods {})", pods.join(", ")));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

struct Shown<'a> {
    sign: char,
    action: &'static str,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

fn shown(change: &Change) -> Shown<'_> {
    let shown = |sign, action, before, after| Shown {
        sign,
        action,
        before,
        after,
    };
    match change {
        Change::Keep(value) => shown('=', "keep", Some(&**value), Some(&**value)),
        Change::Create(value) => shown('+', "create", None, Some(&**value)),
        Change::Replace { before, after } => shown('~', "replace", Some(&**before), Some(&**after)),
        Change::Move(value) => shown('>', "move", Some(&**value), Some(&**value)),
        Change::Remove(value) => shown('-', "remove", Some(&**value), None),
    }
}

/// Escapes control characters. Our own values have none, but another client may have written others under our key.
fn printable(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let shown = text.chars().flat_map(|c| {
        let escaped = c.is_control().then(|| c.escape_default());
        let plain = escaped.is_none().then_some(c);
        escaped.into_iter().flatten().chain(plain)
    });
    shown.collect()
}

fn holder(conflict: &Conflict) -> String {
    match &conflict.holder {
        Holder::OtherClient { lease, .. } => format!("another client (on the lease {lease})"),
        Holder::Registration(registration) => format!("the registration {registration}"),
    }
}

/// Returns the plan as JSON, for programs.
pub fn json(plan: &Plan) -> String {
    let registrations: Vec<Value> = plan.outcomes.iter().map(to_json).collect();
    let refused = plan.refused.iter().map(|(registration, cause)| {
        json!({"namespace": registration.namespace, "name": registration.name, "cause": cause.to_string()})
    });
    let whole = json!({
        "changes": plan.changes_anything(),
        "compared": match plan.compared {
            Compared::Etcd => "etcd",
            Compared::Nothing => "nothing",
        },
        "registrations": registrations,
        "refused": refused.collect::<Vec<_>>(),
        "otherEtcd": plan.other_etcd,
    });
    format!("{whole:#}\n")
}

fn to_json(outcome: &Outcome) -> Value {
    let keys = outcome.keys.iter().map(|(key, change)| {
        let shown = shown(change);
        json!({
            "key": key,
            "action": shown.action,
            "before": shown.before.map(String::from_utf8_lossy),
            "after": shown.after.map(String::from_utf8_lossy),
        })
    });
    let conflicts = outcome
        .conflicts
        .iter()
        .map(|conflict| json!({"key": conflict.key, "holder": holder(conflict)}));
    let problems = outcome
        .problems
        .iter()
        .map(|(problem, pods)| json!({"problem": problem, "pods": pods}));
    json!({
        "namespace": outcome.registration.namespace,
        "name": outcome.registration.name,
        "selectedPods": outcome.selected,
        "readyPods": outcome.ready,
        "waitingPods": outcome.waiting,
        "suspended": outcome.suspended,
        "keptPod": outcome.kept,
        "heldBack": outcome.held,
        "keys": keys.collect::<Vec<_>>(),
        "conflicts": conflicts.collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
    })
}
