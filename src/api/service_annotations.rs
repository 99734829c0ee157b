//! The annotations with which a Service asks for a registration, and how the registrations that the operator keeps for
//! such Services are recognized.

use std::collections::BTreeMap;

use super::{DEFAULT_REGISTRY, ServiceRegistration};

/// Asks for a registration in the Registry that it names; in the one named `default` if its value is empty.
pub const REGISTER_ANNOTATION: &str = "leasehold.dev/register";
/// `spec.serviceName` of the registration.
pub const NAME_ANNOTATION: &str = "leasehold.dev/name";
/// `spec.formats` of the registration: names of types, or a list in YAML.
pub const FORMATS_ANNOTATION: &str = "leasehold.dev/formats";
/// `spec.ports` of the registration: names or numbers of ports of the Service, or a list in YAML.
pub const PORTS_ANNOTATION: &str = "leasehold.dev/ports";
/// `spec.attributes` of the registration, as `name=value` pairs.
pub const ATTRIBUTES_ANNOTATION: &str = "leasehold.dev/attributes";
/// `spec.weight` of the registration. Has the same name as the annotation of a pod.
pub const SERVICE_WEIGHT_ANNOTATION: &str = "leasehold.dev/weight";

/// The label of the objects that the operator writes, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "leasehold");

/// Returns the name of the Registry that the annotations of a Service ask for; none if they ask for none.
pub fn annotated_registry(annotations: &BTreeMap<String, String>) -> Option<&str> {
    match annotations.get(REGISTER_ANNOTATION)?.trim() {
        "" => Some(DEFAULT_REGISTRY),
        name => Some(name),
    }
}

impl ServiceRegistration {
    /// Returns the UID of the Service for whose annotations the operator keeps this registration; none if it belongs to
    /// a user. The operator's registrations have the name of their Service, which is their controller, and the label
    /// [`MANAGED_BY`].
    pub fn owning_service(&self) -> Option<&str> {
        let (label, value) = MANAGED_BY;
        let labels = self.metadata.labels.as_ref()?;
        labels.get(label).filter(|found| *found == value)?;
        let mut owners = self.metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true))?;
        let is_service = (controller.api_version.as_str(), controller.kind.as_str()) == ("v1", "Service");
        let has_its_name = Some(controller.name.as_str()) == self.metadata.name.as_deref();
        (is_service && has_its_name).then_some(&controller.uid)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn registration(labels: &Value, owner: &Value) -> ServiceRegistration {
        serde_json::from_value(json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "labels": labels, "ownerReferences": [owner]},
            "spec": {"service": {"name": "orders"}},
        }))
        .expect("decodes")
    }

    #[test]
    fn empty_register_annotation_means_the_default_registry() {
        let of = |value: &str| BTreeMap::from([(REGISTER_ANNOTATION.to_owned(), value.to_owned())]);
        assert_eq!(annotated_registry(&of(" ")), Some("default"));
        assert_eq!(annotated_registry(&of("edge")), Some("edge"));
        assert_eq!(annotated_registry(&BTreeMap::new()), None);
    }

    #[test]
    fn registration_is_the_operators_only_with_label_and_controlling_service() {
        let ours = json!({"app.kubernetes.io/managed-by": "leasehold"});
        let owner = json!({"apiVersion": "v1", "kind": "Service", "name": "orders", "uid": "u1", "controller": true});
        assert_eq!(registration(&ours, &owner).owning_service(), Some("u1"));
        assert_eq!(registration(&json!({}), &owner).owning_service(), None);
        let changes = [
            ("controller", json!(false)),
            ("kind", json!("Deployment")),
            ("apiVersion", json!("serving.knative.dev/v1")),
            ("name", json!("bills")),
        ];
        for (field, value) in changes {
            let mut other = owner.clone();
            other[field] = value;
            assert_eq!(registration(&ours, &other).owning_service(), None, "{field}");
        }
    }
}
