//! Nothing changed, nothing written: in a quiet time no event on a data key, and no new version of a registration.

use super::{Kind, Scene, Violation, named};
use crate::chaos::record::Sight;

pub fn violations(scene: &Scene<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for quiet in &scene.record.quiets {
        let inside = |at| quiet.from <= at && at <= quiet.to;
        for (key, touches) in &scene.touches {
            for touch in touches.iter().filter(|touch| inside(touch.at)) {
                violations.push(Violation {
                    kind: Kind::Noise,
                    key: Some(key.clone()),
                    at: touch.at,
                    why: format!("the key became {} in a quiet period", named(&touch.after)),
                });
            }
        }
        for sighting in scene.record.kubernetes.iter().filter(|sighting| inside(sighting.at)) {
            if let Sight::Registration(name, _) = &sighting.sight {
                violations.push(Violation {
                    kind: Kind::Noise,
                    key: None,
                    at: sighting.at,
                    why: format!("the registration {name} was written in a quiet period"),
                });
            }
        }
    }
    violations
}
