//! What kube-apiserver says to manifests: wrong ones are rejected with words that help, good ones are taken and filled in.

use std::path::Path;
use std::process::Command;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, Request};
use kube::{Client, Resource};
use leasehold::api::{ConditionStatus, ConditionType, Reason};
use leasehold::api::{OLDEST_KUBERNETES, RecordFormat, Registry, ServiceRegistration, UpdatePolicy, conditions};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::tools::GoProgram;
use tokio::sync::OnceCell;

mod manifests;

use manifests::{Case, record_format, registration, registry, with};

/// A client of the bed that all tests here share, with the CRDs of this tree applied. Each test has a client of its own,
/// for a client's connections end with the runtime that they were opened on.
async fn client() -> Client {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let bed = testbed::shared().await.expect("a bed starts");
    APPLIED
        .get_or_init(async || bed.apply_crds().await.expect("the apiserver takes the CRDs"))
        .await;
    let client = leasehold::kube::connect(Some(bed.kubeconfig()));
    client.expect("the bed's kubeconfig is usable")
}

/// Creates an object the way kubectl does: fields that the CRD does not know are errors.
async fn create<K>(client: &Client, path: &str, manifest: &Value, dry_run: bool) -> kube::Result<K>
where
    K: DeserializeOwned,
{
    let options = PostParams {
        dry_run,
        ..PostParams::default()
    };
    let body = serde_json::to_vec(manifest).expect("JSON");
    let mut request = Request::new(path).create(&options, body).expect("a request");
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri())
        .parse()
        .expect("a URI");
    client.request(request).await
}

fn registrations() -> String {
    ServiceRegistration::url_path(&(), Some("default"))
}

fn registries() -> String {
    Registry::url_path(&(), None)
}

/// A message of kube-apiserver as a current release words it: `cargo xtask compat` runs these tests on the oldest one.
fn in_current_words(message: &str) -> String {
    message
        .replace("may not be longer than", "may not be more than")
        .replace("map[string]interface {}{", "{")
}

/// Everything that is wrong with the answers, so that one run shows all of it.
async fn mistakes(client: &Client, path: &str, base: &Value, cases: Vec<Case>) -> Vec<String> {
    let mut mistakes = Vec::new();
    for Case { name, patch, expected } in cases {
        let manifest = with(base, &patch);
        let offline = manifests::schemas::problems(&manifest);
        let problem = match (create::<DynamicObject>(client, path, &manifest, true).await, expected) {
            (Ok(_), None) if offline.is_empty() => continue,
            (Ok(_), None) => format!("taken, but the JSON schema says: {}", offline.join("; ")),
            (Err(_), Some(text)) if text.starts_with("unknown field") && offline.is_empty() => {
                "the JSON schema takes an unknown field".to_owned()
            }
            (Err(kube::Error::Api(status)), Some(text)) if in_current_words(&status.message).contains(text) => continue,
            (Ok(_), Some(text)) => format!("taken, expected: {text}"),
            (Err(error), _) => format!("rejected: {error}"),
        };
        mistakes.push(format!("{name}: {problem}"));
    }
    mistakes
}

#[tokio::test]
async fn a_wrong_registration_is_rejected_with_what_to_write_instead() {
    let client = client().await;
    let mistakes = mistakes(
        &client,
        &registrations(),
        &registration(),
        manifests::registrations::wrong(),
    )
    .await;
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[tokio::test]
async fn a_wrong_registry_is_rejected_with_what_to_write_instead() {
    let client = client().await;
    let mistakes = mistakes(&client, &registries(), &registry(), manifests::registries::wrong()).await;
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[tokio::test]
async fn a_wrong_record_format_is_rejected_with_what_to_write_instead() {
    let client = client().await;
    let path = RecordFormat::url_path(&(), None);
    let mistakes = mistakes(&client, &path, &record_format(), manifests::record_formats::wrong()).await;
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[tokio::test]
async fn a_good_manifest_is_taken() {
    let client = client().await;
    let mut all = mistakes(
        &client,
        &registrations(),
        &registration(),
        manifests::registrations::good(),
    )
    .await;
    all.extend(mistakes(&client, &registries(), &registry(), manifests::registries::good()).await);
    let path = RecordFormat::url_path(&(), None);
    all.extend(mistakes(&client, &path, &record_format(), manifests::record_formats::good()).await);
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[tokio::test]
async fn what_a_manifest_leaves_out_is_filled_in() {
    let client = client().await;
    let made: ServiceRegistration = create(&client, &registrations(), &registration(), true).await.unwrap();
    assert_eq!(made.spec.registry_ref.name, "default");
    assert_eq!(made.spec.address.ip_families, [leasehold::model::Family::IPv4]);
    assert_eq!(made.spec.update_policy, UpdatePolicy::Sync);
    assert_eq!(made.spec.min_ready_seconds, 0);
    assert_eq!(made.service_name(), "orders");
    assert_eq!((&*made.spec.ports[0].name, &made.spec.ports[0].port), ("http", &None));

    let partial = with(
        &registration(),
        &json!({"spec": {"address": {"ipFamilies": ["IPv6"]}, "updatePolicy": null}}),
    );
    let made: ServiceRegistration = create(&client, &registrations(), &partial, true).await.unwrap();
    assert_eq!(
        serde_json::to_value(&made.spec.address).unwrap(),
        json!({"type": "PodIP", "ipFamilies": ["IPv6"]})
    );
    assert_eq!(made.spec.update_policy, UpdatePolicy::Sync);

    let made: Registry = create(&client, &registries(), &registry(), true).await.unwrap();
    assert_eq!(
        (
            made.spec.etcd.meta_prefix.as_str(),
            made.spec.defaults.lease_ttl_seconds
        ),
        ("/leasehold/", 30)
    );
    let partial = with(&registry(), &json!({"spec": {"limits": {"keysPerLease": 32}}}));
    let made: Registry = create(&client, &registries(), &partial, true).await.unwrap();
    assert_eq!(
        serde_json::to_value(&made.spec.limits).unwrap(),
        json!({
            "keysPerLease": 32, "keysPerSecond": 5000, "transactionsInFlight": 4, "changesPerSecondPerNamespace": 500,
        })
    );
}

#[tokio::test]
async fn what_must_not_change_cannot_be_changed_and_the_rest_can() {
    let client = client().await;
    let (apply, merge) = (PatchParams::apply("crds-test").force(), PatchParams::default());

    let objects: Api<ServiceRegistration> = Api::namespaced(client.clone(), "default");
    let manifest = with(&registration(), &json!({"metadata": {"name": "immutable"}}));
    objects
        .patch("immutable", &apply, &Patch::Apply(&manifest))
        .await
        .unwrap();
    let moved = json!({"spec": {"registryRef": {"name": "other"}}});
    let error = objects
        .patch("immutable", &merge, &Patch::Merge(&moved))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("delete this registration and create it again in the other registry"),
        "{error}"
    );
    let changed =
        json!({"spec": {"leaseTTLSeconds": 60, "serviceName": "orders-2", "selector": {"matchLabels": {"a": "b"}}}});
    objects
        .patch("immutable", &merge, &Patch::Merge(&changed))
        .await
        .unwrap();
    objects
        .delete("immutable", &kube::api::DeleteParams::default())
        .await
        .unwrap();

    let objects: Api<Registry> = Api::all(client);
    let manifest = with(&registry(), &json!({"metadata": {"name": "immutable"}}));
    objects
        .patch("immutable", &apply, &Patch::Apply(&manifest))
        .await
        .unwrap();
    let moved = json!({"spec": {"etcd": {"metaPrefix": "/elsewhere/"}}});
    let error = objects
        .patch("immutable", &merge, &Patch::Merge(&moved))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("metaPrefix cannot be changed") && error.contains("create another Registry"),
        "{error}"
    );
    let class = json!({"spec": {"class": "edge"}});
    let error = objects
        .patch("immutable", &merge, &Patch::Merge(&class))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("class cannot be changed"), "{error}");
    let changed =
        json!({"spec": {"etcd": {"endpoints": ["http://10.0.0.9:2379"]}, "defaults": {"leaseTTLSeconds": 20}}});
    objects
        .patch("immutable", &merge, &Patch::Merge(&changed))
        .await
        .unwrap();
    objects
        .delete("immutable", &kube::api::DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_registration_is_found_by_its_registry_and_its_service_name() {
    let client = client().await;
    let objects: Api<ServiceRegistration> = Api::namespaced(client, "default");
    let apply = PatchParams::apply("crds-test").force();
    for (name, registry) in [("selectable-1", "one"), ("selectable-2", "two")] {
        let spec = json!({"registryRef": {"name": registry}, "serviceName": name});
        let manifest = with(&registration(), &json!({"metadata": {"name": name}, "spec": spec}));
        objects.patch(name, &apply, &Patch::Apply(&manifest)).await.unwrap();
    }
    for selector in ["spec.registryRef.name=two", "spec.serviceName=selectable-2"] {
        let found = objects
            .list(&kube::api::ListParams::default().fields(selector))
            .await
            .unwrap();
        let names: Vec<_> = found.iter().filter_map(|one| one.metadata.name.as_deref()).collect();
        assert_eq!(names, ["selectable-2"], "{selector}");
    }
    for name in ["selectable-1", "selectable-2"] {
        objects.delete(name, &kube::api::DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn two_managers_share_the_ports_of_a_registration() {
    let client = client().await;
    let objects: Api<ServiceRegistration> = Api::namespaced(client, "default");
    let manifest = with(&registration(), &json!({"metadata": {"name": "shared"}}));
    let apply = |manager: &str| PatchParams::apply(manager);
    objects
        .patch("shared", &apply("crds-first"), &Patch::Apply(&manifest))
        .await
        .unwrap();
    let more = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration", "metadata": {"name": "shared"},
        "spec": {"ports": [{"name": "grpc"}], "attributes": [{"name": "team", "value": "payments"}]},
    });
    let both = objects
        .patch("shared", &apply("crds-second"), &Patch::Apply(&more))
        .await
        .unwrap();
    let names: Vec<&str> = both.spec.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(names, ["http", "grpc"]);
    objects
        .delete("shared", &kube::api::DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_condition_is_as_strict_as_those_of_kubernetes() {
    let client = client().await;
    let objects: Api<Registry> = Api::all(client);
    let manifest = with(&registry(), &json!({"metadata": {"name": "strict"}}));
    let apply = PatchParams::apply("crds-test").force();
    objects.patch("strict", &apply, &Patch::Apply(&manifest)).await.unwrap();
    let good = json!({
        "type": "Ready", "status": "True", "reason": "Connected", "message": "",
        "lastTransitionTime": "2026-11-29T00:00:00Z",
    });
    let written = async |change: Value| {
        let status = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "status": {"conditions": [with(&good, &change)]},
        });
        let answer = objects.patch_status("strict", &apply, &Patch::Apply(&status)).await;
        answer.map(|_| ()).map_err(|error| in_current_words(&error.to_string()))
    };
    assert_eq!(written(json!({})).await, Ok(()));
    for (change, expected) in [
        (
            json!({"status": "Maybe"}),
            r#"supported values: "True", "False", "Unknown""#,
        ),
        (json!({"reason": "no such"}), "reason in body should match"),
        (json!({"reason": ""}), "reason in body should be at least 1 chars long"),
        (json!({"type": "a b"}), "type in body should match"),
        (json!({"message": "x".repeat(32769)}), "may not be more than 32768"),
        (
            json!({"observedGeneration": -1}),
            "should be greater than or equal to 0",
        ),
        (
            json!({"lastTransitionTime": null}),
            "lastTransitionTime in body must be of type string",
        ),
    ] {
        let error = written(change.clone()).await.unwrap_err();
        assert!(error.contains(expected), "{change}: {error}");
    }
    objects
        .delete("strict", &kube::api::DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn kubectl_get_shows_the_status_and_wide_the_reason() {
    let client = client().await;
    let objects: Api<ServiceRegistration> = Api::namespaced(client.clone(), "default");
    let apply = PatchParams::apply("crds-test").force();
    let manifest = with(&registration(), &json!({"metadata": {"name": "columns"}}));
    objects
        .patch("columns", &apply, &Patch::Apply(&manifest))
        .await
        .unwrap();

    let mut list = Vec::new();
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let (kind, status, reason) = (ConditionType::Synced, ConditionStatus::False, Reason::Writing);
    conditions::set(&mut list, kind, status, reason, "1 key to write", Some(1), &now);
    conditions::set(
        &mut list,
        ConditionType::Ready,
        ConditionStatus::True,
        Reason::EndpointsRegistered,
        "",
        None,
        &now,
    );
    let status = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "status": {
            "observedGeneration": 1, "serviceName": "orders", "conditions": list,
            "pods": {"selected": 4, "ready": 3, "registered": 2},
        },
    });
    objects
        .patch_status("columns", &apply, &Patch::Apply(&status))
        .await
        .unwrap();

    let mut request = Request::new(registrations())
        .get("columns", &kube::api::GetParams::default())
        .unwrap();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io"
        .parse()
        .expect("a header's value");
    request.headers_mut().insert("accept", table);
    let table: Value = client.request(request).await.unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    let columns: Vec<(&str, i64, &Value)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .zip(cells)
        .map(|(column, cell)| {
            (
                column["name"].as_str().unwrap(),
                column["priority"].as_i64().unwrap(),
                cell,
            )
        })
        .filter(|(name, ..)| *name != "AGE")
        .collect();
    assert_eq!(
        columns,
        [
            ("Name", 0, &json!("columns")),
            ("SERVICE", 0, &json!("orders")),
            ("REGISTRY", 0, &json!("default")),
            ("PODS", 0, &json!(4)),
            ("READY", 0, &json!(3)),
            ("REGISTERED", 0, &json!(2)),
            ("SYNCED", 0, &json!("False")),
            ("REASON", 1, &json!("Writing")),
            ("MESSAGE", 1, &json!("1 key to write")),
        ]
    );
    objects
        .delete("columns", &kube::api::DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_apiserver_finds_nothing_to_warn_of_in_the_crds() {
    let client = client().await;
    let objects: Api<CustomResourceDefinition> = Api::all(client);
    for crd in leasehold::api::crds() {
        let name = crd.metadata.name.clone().expect("a CRD has a name");
        let served = objects.get(&name).await.unwrap();
        let conditions = served.status.and_then(|status| status.conditions).unwrap_or_default();
        let holds = |kind: &str| conditions.iter().any(|it| it.type_ == kind && it.status == "True");
        assert!(holds("Established") && holds("NamesAccepted"), "{name}: {conditions:?}");
        assert!(!holds("NonStructuralSchema"), "{name}: {conditions:?}");
    }
}

/// What kube-apiserver of one release says of the files in `crds`, in the words of its own validation: syntax, structure
/// and the estimated cost of the rules. The modules are pinned in `tests/testbed/tools/crd-check`.
fn refusals(name: &'static str, modfile: Option<&'static str>) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = GoProgram {
        module: root.join("tests/testbed/tools/crd-check"),
        package: ".",
        name,
        modfile,
        tags: "",
    };
    let binary = program.binary().unwrap_or_else(|error| panic!("{error}"));
    let files = std::fs::read_dir(root.join("crds")).expect("the definitions are there");
    let files = files.map(|file| file.expect("a file").path());
    let output = Command::new(binary).args(files).output().expect("it runs");
    let reported = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.success(), reported.is_empty(), "{output:?}");
    reported
}

#[test]
fn the_oldest_and_the_newest_kubernetes_accept_the_definitions() {
    assert_eq!(refusals("crd-check-1.31", Some("1.31.mod")), "");
    assert_eq!(refusals("crd-check-1.36", None), "");
}

#[test]
fn chart_doctor_and_docs_name_the_same_oldest_kubernetes() {
    let (major, minor) = OLDEST_KUBERNETES;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, line) in [
        (
            "charts/leasehold/Chart.yaml",
            format!("kubeVersion: \">={major}.{minor}.0-0\""),
        ),
        (
            "charts/leasehold/README.md",
            format!("Kubernetes {major}.{minor} or newer"),
        ),
        ("README.md", format!("Kubernetes {major}.{minor} or newer")),
        // What `cargo xtask compat` runs.
        (
            "tests/testbed/tools/kubernetes-1.31/go.mod",
            format!("k8s.io/kubernetes v{major}.{minor}."),
        ),
        // What the check of the definitions is built with.
        (
            "tests/testbed/tools/crd-check/1.31.mod",
            format!("k8s.io/apiextensions-apiserver v0.{minor}.0"),
        ),
    ] {
        let text = std::fs::read_to_string(root.join(file)).expect("it is there");
        assert!(text.contains(&line), "{file} does not say {line}");
    }
}

/// Every complete manifest on the pages of this tree, with the page.
fn documented() -> Vec<(String, Value)> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![tree.join("README.md"), tree.join("charts/leasehold/README.md")];
    let mut folders = vec![tree.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            match path.extension() {
                None => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                Some(_) => {}
            }
        }
    }
    let mut manifests = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("it can be read");
        let page = page.strip_prefix(tree).expect("in the tree").display().to_string();
        let blocks = text.split("\n```yaml\n").skip(1);
        let blocks = blocks.map(|block| block.split("\n```").next().expect("it ends"));
        for manifest in blocks.flat_map(|block| block.split("\n---\n")) {
            let manifest: Value = serde_saphyr::from_str(manifest).unwrap_or_else(|error| panic!("{page}: {error}"));
            // The others are parts of manifests, or of kinds that the bed does not know.
            let known = ["leasehold.dev/v1alpha1", "v1", "apps/v1"];
            if known.iter().any(|known| manifest["apiVersion"] == *known) {
                manifests.push((page.clone(), manifest));
            }
        }
    }
    manifests
}

#[tokio::test]
async fn every_manifest_in_the_docs_is_taken() {
    let client = client().await;
    let manifests = documented();
    assert!(manifests.len() > 20, "{}", manifests.len());
    let mut refused = Vec::new();
    for (page, manifest) in manifests {
        let plural = match manifest["kind"].as_str().unwrap_or_default() {
            "Registry" => "registries".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let group = match manifest["apiVersion"].as_str().unwrap_or_default() {
            "v1" => "/api/v1".to_owned(),
            version => format!("/apis/{version}"),
        };
        let mut manifest = manifest;
        let mut path = format!("{group}/{plural}");
        if !["Registry", "RecordFormat", "Namespace"]
            .iter()
            .any(|kind| manifest["kind"] == *kind)
        {
            // The namespaces of the pages are not there.
            manifest["metadata"]["namespace"] = json!("default");
            path = format!("{group}/namespaces/default/{plural}");
        }
        if let Err(error) = create::<DynamicObject>(&client, &path, &manifest, true).await {
            refused.push(format!("{page}: {}: {error}", manifest["metadata"]["name"]));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
