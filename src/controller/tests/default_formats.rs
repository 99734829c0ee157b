//! Registrations that list no formats have those of their Registry.

use super::*;

impl Rig {
    fn registry_with(&mut self, generation: i64, formats: Value) {
        let mut defaults = json!({});
        if !formats.is_null() {
            defaults["formats"] = formats;
        }
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "default", "uid": "r", "generation": generation},
            "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}, "defaults": defaults},
        });
        self.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    }

    fn short(&mut self) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "a", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "orders"}}, "ports": [{"name": "grpc"}]},
        });
        let event = ObjectEvent::Applied(Box::new(decode(object)));
        self.take(WatchEvent::Registration(NamespaceScope::Cluster, event));
    }

    fn locations(&self) -> Vec<String> {
        let compiled = self.compiled(&orders());
        let bindings = compiled.map(|compiled| compiled.bindings).unwrap_or_default();
        bindings
            .iter()
            .map(|binding| binding.format.prefix().as_str().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn registration_without_formats_follows_its_registry_defaults() {
    let mut rig = Rig::new();
    rig.short();
    assert_eq!(rig.refusals(), [""; 0], "the Registry may exist");
    rig.lists_complete();
    let mut refusals = rig.refusals();
    refusals.dedup();
    assert_eq!(refusals, ["RegistryNotFound"]);
    rig.registry_with(1, json!([{"type": "Plain"}]));
    assert_eq!(rig.locations(), ["/services/shop/orders/"]);
    rig.registry_with(2, json!([{"type": "EtcdGRPC"}]));
    assert_eq!(rig.locations(), ["shop/orders/"]);
    let compiled = rig.compiled(&orders()).expect("in force");
    let previous = compiled
        .previous
        .expect("the records of the former default stay until the new ones are there");
    assert_eq!(previous.bindings[0].format.prefix().as_str(), "/services/shop/orders/");
    // Without a default there is nothing to write; what is in force stays.
    rig.registry_with(3, Value::Null);
    assert_eq!(rig.locations(), ["shop/orders/"]);
    assert_eq!(rig.cache().entries[&orders()].refusal(), Some("InvalidSpec"));
    rig.registry_with(4, json!([{"type": "Plain"}]));
    assert_eq!(rig.locations(), ["/services/shop/orders/"]);
    assert_eq!(rig.cache().entries[&orders()].refusal(), None);
}
