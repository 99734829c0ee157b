//! the foreign client's keys are the foreign client's.

use super::{Kind, Scene, Violation, named};
use crate::chaos::{
    holders::{Holder, Touch},
    record::Outcome,
};

pub fn violations(scene: &Scene<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, touches) in &scene.touches {
        for touch in touches {
            let why = match (&touch.before, &touch.after) {
                (Holder::Foreign, Holder::Ours { .. }) => format!("{} was written over it", named(&touch.after)),
                (Holder::Foreign, Holder::Absent) if !was_foreign_client(scene, key, touch) => {
                    "another client deleted it".to_owned()
                }
                _ => continue,
            };
            violations.push(Violation {
                kind: Kind::Foreign,
                key: Some(key.clone()),
                at: touch.at,
                why: format!("a key of the foreign client: {why} at revision {}", touch.revision),
            });
        }
    }
    violations
}

/// Whether the foreign client deleted its key, or may have.
fn was_foreign_client(scene: &Scene<'_>, key: &str, touch: &Touch) -> bool {
    let deletes = scene
        .record
        .foreign_writes
        .iter()
        .filter(|foreign_write| foreign_write.delete && foreign_write.key == key);
    deletes.into_iter().any(|foreign_write| match foreign_write.outcome {
        Outcome::Done(revision) => revision == touch.revision,
        Outcome::Unknown => foreign_write.at <= touch.at,
        Outcome::Refused => false,
    })
}
