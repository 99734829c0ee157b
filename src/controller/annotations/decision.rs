//! Decides what to do about the registration of a Service: from the annotations of the Service, the registration of its
//! name, and which Registries this replica leads.

use super::spec::{Problem, desired};
use crate::api::{ServiceRegistrationSpec, annotated_registry};
use crate::index::Service;
use crate::model::listed;

/// How many problems an Event names.
const NAMED: usize = 4;

/// The registration that has the name of the Service.
#[derive(Clone, Copy, Debug)]
pub enum Existing<'a> {
    None,
    /// It belongs to a user.
    OfUser,
    /// The operator keeps it for the Service with this UID.
    Kept {
        owner: &'a str,
        spec: &'a ServiceRegistrationSpec,
        is_deleting: bool,
    },
}

/// What this replica is for a Registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads, and has observed as much as its predecessors.
    Leader,
    /// Another replica leads, or none yet.
    Other,
    /// The Registry does not exist, so that no replica leads.
    Absent,
}

/// What to do about the registration of a Service.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Create(Box<ServiceRegistrationSpec>),
    Update(Box<ServiceRegistrationSpec>),
    /// Delete it from the Registry that it names.
    Delete,
    /// The same, because it moves to another Registry with this spec.
    Move(Box<ServiceRegistrationSpec>),
    Leave,
    /// Leave it, and publish an Event about the Service.
    Complain(Complaint),
}

/// Why the annotations of a Service are not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The reason of the Event.
    pub reason: &'static str,
    pub note: String,
}

impl Complaint {
    fn invalid(problems: &[Problem]) -> Self {
        let problems = listed(problems, NAMED, "and");
        Self {
            reason: "InvalidAnnotation",
            note: format!("Its registration stays as it is until the annotations are corrected. {problems}."),
        }
    }

    fn no_registry(registry: &str) -> Self {
        Self {
            reason: "RegistryNotFound",
            note: format!(
                "The Registry \"{registry}\" that leasehold.dev/register names does not exist: create it, or name another \
                 one."
            ),
        }
    }

    fn taken(name: &str) -> Self {
        Self {
            reason: "RegistrationExists",
            note: format!(
                "The ServiceRegistration \"{name}\" belongs to a user, so leasehold.dev/register has no effect: delete the \
                 ServiceRegistration, or remove the annotation."
            ),
        }
    }
}

/// Decides about the registration `existing` of `service`, or of a Service that does not exist. `role` says what this
/// replica is for a Registry.
pub fn decide(service: Option<&Service>, existing: Existing<'_>, role: impl Fn(&str) -> Role) -> Decision {
    // Kubernetes deletes the registrations of a deleted Service.
    let Some(service) = service else {
        return Decision::Leave;
    };
    let Some(registry) = annotated_registry(&service.annotations) else {
        return match existing {
            Existing::Kept { owner, spec, .. } if owner == service.uid => {
                delete(spec, existing, role, Decision::Delete)
            }
            _ => Decision::Leave,
        };
    };
    if service.is_deleting {
        return Decision::Leave;
    }
    let my_role = role(registry);
    // Without a leader, each replica publishes the same Event, and the API server keeps one.
    let complain = |complaint| match my_role {
        Role::Leader | Role::Absent => Decision::Complain(complaint),
        Role::Other => Decision::Leave,
    };
    let spec = match desired(service) {
        Some(Ok(spec)) => spec,
        Some(Err(problems)) => return complain(Complaint::invalid(&problems)),
        None => return Decision::Leave,
    };
    if my_role == Role::Absent {
        return complain(Complaint::no_registry(registry));
    }
    match existing {
        Existing::OfUser => complain(Complaint::taken(&service.name)),
        Existing::None if my_role == Role::Leader => Decision::Create(Box::new(spec)),
        // A former Service of this name had it. Kubernetes is about to delete it.
        Existing::Kept { owner, .. } if owner != service.uid => Decision::Leave,
        // The Registry of a registration cannot be changed. The leader of the new one creates the registration again.
        Existing::Kept { spec: present, .. } if present.registry_ref != spec.registry_ref => {
            delete(present, existing, role, Decision::Move(Box::new(spec)))
        }
        Existing::Kept {
            spec: present,
            is_deleting: false,
            ..
        } if my_role == Role::Leader && *present != spec => Decision::Update(Box::new(spec)),
        Existing::None | Existing::Kept { .. } => Decision::Leave,
    }
}

/// Deletes a registration with this spec by `decision`, if that is up to this replica.
fn delete(
    spec: &ServiceRegistrationSpec,
    existing: Existing<'_>,
    role: impl Fn(&str) -> Role,
    decision: Decision,
) -> Decision {
    let is_deleting = matches!(existing, Existing::Kept { is_deleting: true, .. });
    if is_deleting || role(&spec.registry_ref.name) == Role::Other {
        return Decision::Leave;
    }
    decision
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(annotations: &Value) -> Service {
        crate::kube::service(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u1", "annotations": annotations},
            "spec": {"ports": [{"name": "grpc", "port": 80}]},
        }))
        .expect("decodes")
    }

    fn of(registry: &str) -> Service {
        service(&json!({"leasehold.dev/register": registry}))
    }

    fn kept(spec: &ServiceRegistrationSpec) -> Existing<'_> {
        Existing::Kept {
            owner: "u1",
            spec,
            is_deleting: false,
        }
    }

    fn spec(registry: &str) -> ServiceRegistrationSpec {
        desired(&of(registry)).expect("annotated").expect("right")
    }

    /// Leads `a`, does not lead `b`, and knows no other Registry.
    fn role(registry: &str) -> Role {
        match registry {
            "a" => Role::Leader,
            "b" => Role::Other,
            _ => Role::Absent,
        }
    }

    fn reason(decision: &Decision) -> &str {
        match decision {
            Decision::Create(_) => "create",
            Decision::Update(_) => "update",
            Decision::Delete => "delete",
            Decision::Move(_) => "move",
            Decision::Leave => "leave",
            Decision::Complain(complaint) => complaint.reason,
        }
    }

    #[test]
    fn only_the_leader_of_the_named_registry_writes() {
        let (a, b) = (spec("a"), spec("b"));
        let mut other = spec("a");
        other.weight = Some(7);
        let mut other_of_b = spec("b");
        other_of_b.weight = Some(7);
        let plain = service(&json!({}));
        let cases = [
            (of("a"), Existing::None, "create"),
            (of("b"), Existing::None, "leave"),
            (of("c"), Existing::None, "RegistryNotFound"),
            (of("a"), kept(&a), "leave"),
            (of("a"), kept(&other), "update"),
            (of("b"), kept(&other_of_b), "leave"),
            (of("a"), Existing::OfUser, "RegistrationExists"),
            (of("b"), Existing::OfUser, "leave"),
            // Another Registry: the leader of the former one deletes.
            (of("b"), kept(&a), "move"),
            (of("a"), kept(&b), "leave"),
            (of("c"), kept(&a), "RegistryNotFound"),
            (plain.clone(), Existing::None, "leave"),
            (plain.clone(), Existing::OfUser, "leave"),
            (plain.clone(), kept(&a), "delete"),
            (plain.clone(), kept(&b), "leave"),
        ];
        for (service, existing, expected) in cases {
            let decision = decide(Some(&service), existing, role);
            assert_eq!(reason(&decision), expected, "{:?} {existing:?}", service.annotations);
        }
        let gone = spec("gone");
        assert_eq!(
            decide(Some(&plain), kept(&gone), role),
            Decision::Delete,
            "no replica leads a deleted Registry"
        );
    }

    #[test]
    fn deleted_service_and_registration_are_left_to_kubernetes() {
        let a = spec("a");
        assert_eq!(decide(None, kept(&a), role), Decision::Leave);
        for annotated in [of("a"), service(&json!({}))] {
            let deleting = Service {
                is_deleting: true,
                ..annotated.clone()
            };
            let is_annotated = !deleting.annotations.is_empty();
            assert_eq!(decide(Some(&deleting), Existing::None, role), Decision::Leave);
            // A finalizer may keep the Service for long.
            let expected = if is_annotated {
                Decision::Leave
            } else {
                Decision::Delete
            };
            assert_eq!(decide(Some(&deleting), kept(&a), role), expected);
            let of_former = Existing::Kept {
                owner: "u0",
                spec: &a,
                is_deleting: false,
            };
            assert_eq!(decide(Some(&annotated), of_former, role), Decision::Leave);
            let mut changed = a.clone();
            changed.weight = Some(7);
            let ending = Existing::Kept {
                owner: "u1",
                spec: &changed,
                is_deleting: true,
            };
            assert_eq!(decide(Some(&annotated), ending, role), Decision::Leave);
        }
    }

    #[test]
    fn invalid_annotations_change_nothing_and_are_reported_unless_standby() {
        let a = spec("a");
        let invalid =
            |registry: &str| service(&json!({"leasehold.dev/register": registry, "leasehold.dev/weight": "heavy"}));
        for existing in [Existing::None, Existing::OfUser, kept(&a)] {
            for (registry, expected) in [("a", "InvalidAnnotation"), ("b", "leave"), ("c", "InvalidAnnotation")] {
                let decision = decide(Some(&invalid(registry)), existing, role);
                assert_eq!(reason(&decision), expected, "{registry} {existing:?}");
                if let Decision::Complain(complaint) = decision {
                    assert!(
                        complaint.note.contains("leasehold.dev/weight: \"heavy\""),
                        "{}",
                        complaint.note
                    );
                }
            }
        }
    }

    #[test]
    fn annotations_are_what_is_created_and_what_edits_are_put_back_to() {
        let annotated = service(&json!({"leasehold.dev/register": "a", "leasehold.dev/weight": "7"}));
        let wanted = Box::new(desired(&annotated).expect("annotated").expect("right"));
        assert_eq!(wanted.weight, Some(7));
        let created = decide(Some(&annotated), Existing::None, role);
        assert_eq!(created, Decision::Create(wanted.clone()));
        let mut edited = (*wanted).clone();
        edited.attributes.push(crate::api::Attribute::default());
        assert_eq!(decide(Some(&annotated), kept(&edited), role), Decision::Update(wanted));
    }
}
