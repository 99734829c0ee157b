use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::cli::{Cli, Command};

const REGISTRATION: &str = "
apiVersion: leasehold.dev/v1alpha1
kind: ServiceRegistration
metadata: {name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  ports: [{name: grpc}]
  formats: [{type: Plain}, {type: EtcdGRPC}]
";

/// The relevant part of the output of `kubectl get pods -o json`.
fn pods() -> Value {
    let pod = |name: &str, address: &str, ready: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": "orders"}},
            "spec": {"containers": [{"name": "main", "ports": [{"name": "grpc", "containerPort": 8080}]}]},
            "status": {
                "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": ready}]
            }
        })
    };
    let items = [pod("a", "10.0.0.7", "True"), pod("b", "10.0.0.8", "False")];
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

struct Files {
    folder: PathBuf,
}

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("leasehold-plan-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn parse(flags: &[&str]) -> PlanArgs {
    let cli = Cli::try_parse_from(["leasehold", "plan"].iter().chain(flags)).unwrap();
    let Command::Plan(args) = cli.command else {
        panic!("the command is plan");
    };
    args
}

/// Returns the plan of these files as text.
fn planned(files: &Files, registration: &str, pods: &str) -> Result<String, Error> {
    let (registration, pods) = (files.write("reg.yaml", registration), files.write("pods", pods));
    find(&parse(&["-f", &registration, "--pods", &pods])).map(|plan| output::text(&plan))
}

#[test]
fn pods_in_a_file_are_enough_to_tell_every_key_and_value() {
    let files = Files::new("offline");
    let text = planned(&files, REGISTRATION, &pods().to_string()).unwrap();
    let expected = "\
shop/orders: 1 of 2 selected pods are ready
  + /services/shop/orders/a  10.0.0.7:8080
  + shop/orders/a  {\"Op\":0,\"Addr\":\"10.0.0.7:8080\",\"Metadata\":null}
2 to create, 0 to replace, 0 to move, 0 to remove, 0 unchanged
(offline: compared with an empty etcd; neither Kubernetes nor etcd was queried)
";
    assert_eq!(text, expected);
}

#[test]
fn exit_code_distinguishes_changes_no_changes_and_failure() {
    let files = Files::new("codes");
    let registration = files.write("registration.yaml", REGISTRATION);
    let code = |pods: &str, registration: &str| {
        format!(
            "{:?}",
            plan(&parse(&["-f", registration, "--pods", pods, "-o", "json"]))
        )
    };
    let is = |code: u8| format!("{:?}", ExitCode::from(code));
    let (some, none) = (
        files.write("pods.json", &pods().to_string()),
        files.write("none.json", &json!({"kind": "PodList", "items": []}).to_string()),
    );
    assert_eq!(code(&some, &registration), is(2));
    assert_eq!(code(&none, &registration), is(0));
    assert_eq!(code(&some, "/nowhere.yaml"), is(1));
}

#[test]
fn a_flag_that_makes_no_sense_is_no_change() {
    let args = ["leasehold", "plan", "--no-such-flag"].map(std::ffi::OsString::from);
    assert_eq!(
        format!("{:?}", crate::cli::run(args)),
        format!("{:?}", ExitCode::from(1))
    );
}

#[test]
fn json_is_for_programs_and_says_the_same() {
    let files = Files::new("json");
    let pods = files.write("pods.json", &pods().to_string());
    let plan = find(&parse(&["-f", &files.write("r.yaml", REGISTRATION), "--pods", &pods])).unwrap();
    let reported: Value = serde_json::from_str(&output::json(&plan)).unwrap();
    assert_eq!(
        (&reported["changes"], &reported["compared"]),
        (&json!(true), &json!("nothing"))
    );
    let key = &reported["registrations"][0]["keys"][0];
    assert_eq!(
        key,
        &json!({"key": "/services/shop/orders/a", "action": "create", "before": null, "after": "10.0.0.7:8080"})
    );
}

#[test]
fn a_list_of_pods_may_be_yaml_and_come_from_the_apiserver() {
    let files = Files::new("yaml");
    let pod = "{metadata: {name: a, uid: a, labels: {app: orders}}, \
               spec: {containers: [{ports: [{name: grpc, containerPort: 1}]}]}, \
               status: {podIP: 10.0.0.7, conditions: [{type: Ready, status: 'True'}]}}";
    let list = format!("kind: PodList\nitems:\n- {pod}\n");
    let text = planned(&files, REGISTRATION, &list).unwrap();
    assert!(text.contains("+ /services/default/orders/a  10.0.0.7:1"), "{text}");
}

#[test]
fn a_registry_beside_the_registration_is_heeded() {
    let files = Files::new("registry");
    let registry = "kind: Registry\napiVersion: leasehold.dev/v1alpha1\nmetadata: {name: default}\n\
                    spec: {etcd: {endpoints: ['http://127.0.0.1:2379'], metaPrefix: /services/}}";
    let error = planned(&files, &format!("{REGISTRATION}---\n{registry}\n"), &pods().to_string()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the metaPrefix /services/ of the Registry \"default\" overlap"),
        "{error}"
    );
}

#[test]
fn format_that_overlaps_an_earlier_one_of_the_files_is_suppressed() {
    let files = Files::new("overlap");
    let at = |name: &str, prefix: &str| {
        let formats = format!("[{{type: Plain, plain: {{prefix: {prefix}}}}}]");
        REGISTRATION
            .replace("{name: orders}", &format!("{{name: {name}}}"))
            .replace("[{type: Plain}, {type: EtcdGRPC}]", &formats)
    };
    let both = format!("{}---{}", at("orders", "/s/orders"), at("europe", "/s/orders/eu"));
    let text = planned(&files, &both, &pods().to_string()).unwrap();
    assert!(text.contains("  + /s/orders/a  10.0.0.7:8080\n"), "{text}");
    assert!(!text.contains("/s/orders/eu/a"), "{text}");
    assert!(text.contains("of the registration shop/orders would read"), "{text}");
}

#[test]
fn a_record_format_beside_the_registration_is_written_by() {
    let files = Files::new("custom");
    let custom = REGISTRATION.replace(
        "[{type: Plain}, {type: EtcdGRPC}]",
        "[{type: Custom, custom: {recordFormatRef: {name: mine}}}]",
    );
    let error = planned(&files, &custom, &pods().to_string()).unwrap_err().to_string();
    assert!(
        error.contains("there is no RecordFormat \"mine\": create it"),
        "{error}"
    );
    let format = |value: &str| {
        format!(
            "{custom}---\napiVersion: leasehold.dev/v1alpha1\nkind: RecordFormat\nmetadata: {{name: mine}}\n\
             spec: {{records: [{{name: endpoint, key: '{{{{ prefix }}}}/{{{{ id }}}}', value: '{value}'}}]}}\n"
        )
    };
    let text = planned(&files, &format("{{ hostPort }}"), &pods().to_string()).unwrap();
    assert!(
        text.contains("+ /services/shop/orders/a  \"10.0.0.7:8080\"\n"),
        "{text}"
    );
    let error = planned(&files, &format("{{ hostPrt }}"), &pods().to_string())
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 1, column 4: hostPrt is undefined"), "{error}");
}

#[test]
fn what_cannot_be_planned_is_said_with_what_to_do() {
    let files = Files::new("wrong");
    let pods = pods().to_string();
    let cases = [
        ("kind: Deployment", "-f takes leasehold's kinds"),
        ("a: [", "is neither YAML nor JSON"),
        ("", "contain no ServiceRegistration"),
        (
            &REGISTRATION.replace("formats:", "fromats:"),
            "there is no field spec.fromats",
        ),
        (
            &REGISTRATION.replace("{name: grpc}", "{name: grpc, nmae: x}"),
            "there is no field spec.ports[0].nmae",
        ),
        (
            &REGISTRATION.replace("{matchLabels: {app: orders}}", "{}"),
            "name at least one label",
        ),
    ];
    for (registration, expected) in cases {
        let error = planned(&files, registration, &pods).unwrap_err().to_string();
        assert!(error.contains(expected), "{registration}: {error}");
    }
    let error = planned(&files, REGISTRATION, REGISTRATION).unwrap_err().to_string();
    assert!(error.contains("contains a ServiceRegistration"), "{error}");
}

#[test]
fn pod_problems_are_reported_beside_their_keys() {
    let files = Files::new("problems");
    let registration = REGISTRATION.replace("{name: grpc}", "{name: web}");
    let text = planned(&files, &registration, &pods().to_string()).unwrap();
    assert!(
        text.contains("? no container port is named \"web\"") && text.contains("(pods a)"),
        "{text}"
    );
}

#[test]
fn control_characters_in_foreign_values_are_escaped() {
    use std::sync::Arc;

    use crate::controller::Change;
    use crate::model::RegistrationRef;

    let before: Arc<[u8]> = b"\x1b[2Jx\n\xff".as_slice().into();
    let outcome = Outcome {
        kept: None,
        held: std::collections::BTreeSet::new(),
        registration: RegistrationRef::new("shop", "orders"),
        kind: crate::plan::EndpointKind::default(),
        selected: 1,
        ready: 1,
        waiting: vec!["p".into()],
        suspended: false,
        keys: [(Arc::from("/k"), Change::Remove(before))].into(),
        conflicts: Vec::new(),
        problems: BTreeMap::new(),
    };
    let plan = Plan {
        outcomes: vec![outcome],
        refused: Vec::new(),
        other_etcd: Vec::new(),
        compared: Compared::Etcd,
    };
    let text = output::text(&plan);
    assert!(text.contains("spec.minReadySeconds: p)"), "{text:?}");
    assert!(text.contains("- /k  \\u{1b}[2Jx\\n\u{fffd}\n"), "{text:?}");
}

/// Returns the code blocks of docs/tenancy.md, each with its language.
fn tenancy_page() -> Vec<(String, String)> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tenancy.md");
    let text = std::fs::read_to_string(page).expect("the page is there");
    let fenced = text.split("\n```").skip(1).step_by(2);
    let block = |block: &str| {
        let (language, code) = block.split_once('\n').expect("a line with the language");
        (language.to_owned(), format!("{code}\n"))
    };
    fenced.map(block).collect()
}

#[test]
fn the_page_about_tenancy_says_what_its_example_writes() {
    let blocks = tenancy_page();
    let [(_, registry), (_, example), (_, writes)] = &blocks[..] else {
        panic!("rules, an example and what it writes: {blocks:?}");
    };
    let pods = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/consumers/pods.yaml");
    let pods = std::fs::read_to_string(pods).expect("the pods are there");
    let files = Files::new("tenancy-page");
    let text = planned(&files, &format!("{registry}---\n{example}"), &pods).expect("there is a plan");
    let keys: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  + ")).collect();
    assert_eq!(format!("{}\n", keys.join("\n")), *writes);
    let problem = text.lines().find(|line| line.starts_with("  ? ")).expect("a problem");
    assert!(
        problem.contains("the rule shops-plain")
            && problem.contains("does not let the namespace shop write /services/shop-evil"),
        "{problem}"
    );
}

#[test]
fn access_rules_use_namespace_labels_from_the_file() {
    let files = Files::new("rules");
    let registry = "
apiVersion: leasehold.dev/v1alpha1
kind: Registry
metadata: {name: default}
spec:
  etcd: {endpoints: [http://127.0.0.1:1]}
  access: {rules: [{name: shops, namespaceSelector: {matchLabels: {team: shop}}, formats: [Plain], keysPerNamespace: 1}]}
---";
    let pods = pods().to_string();
    let without = planned(&files, &format!("{registry}{REGISTRATION}"), &pods).expect("there is a plan");
    assert!(without.contains("0 to create"), "{without}");
    assert!(
        without.contains("no rule of the Registry's spec.access is for the namespace shop"),
        "{without}"
    );
    let namespace = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---";
    let with = planned(&files, &format!("{registry}{namespace}{REGISTRATION}"), &pods).expect("there is a plan");
    assert!(with.contains("1 to create"), "{with}");
    assert!(
        with.contains("does not let the namespace shop write the format EtcdGRPC: write Plain"),
        "{with}"
    );
    let both = pods.replace("\"False\"", "\"True\"");
    let full = planned(&files, &format!("{registry}{namespace}{REGISTRATION}"), &both).expect("there is a plan");
    assert!(
        full.contains("1 to create") && full.contains("lets this namespace have 1 keys"),
        "{full}"
    );
}

#[test]
fn service_is_planned_from_the_file_with_cluster_nodes() {
    let files = Files::new("service");
    let registration = "apiVersion: leasehold.dev/v1alpha1\nkind: ServiceRegistration\nmetadata: {name: orders}\nspec: \
        {service: {name: orders}, address: {type: NodePort}, formats: [{type: Plain}]}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec: {type: NodePort, selector: {app: \
        orders}, ports: [{port: 80, nodePort: 30080}]}\n";
    let mut cluster = pods();
    let node = json!({
        "kind": "Node", "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    });
    cluster["items"].as_array_mut().expect("items").push(node);
    let text = planned(&files, &format!("{registration}{service}"), &cluster.to_string()).unwrap();
    assert!(text.contains("+ /services/shop/orders/n1  10.1.0.1:30080\n"), "{text}");
    let text = planned(&files, registration, &cluster.to_string()).unwrap();
    assert!(text.contains("The Service \"orders\" does not exist"), "{text}");
}

/// The Service of [`pods`] with these annotations.
fn annotated(annotations: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: orders, annotations: {annotations}}}
spec: {{selector: {{app: orders}}, ports: [{{name: grpc, port: 80, targetPort: grpc}}]}}
"
    )
}

#[test]
fn annotated_service_is_planned_like_its_registration() {
    let files = Files::new("annotated");
    let pods = pods().to_string();
    let service = annotated("{leasehold.dev/register: '', leasehold.dev/formats: 'Plain,EtcdGRPC'}");
    let found = planned(&files, &service, &pods).unwrap();
    let same = planned(&files, REGISTRATION, &pods).unwrap();
    let keys = |plan: &str| -> Vec<String> {
        let lines = plan.lines().filter(|line| line.contains("10.0.0."));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(keys(&found), keys(&same), "{found}");
    assert_eq!(keys(&found).len(), 2, "{found}");
}

#[test]
fn annotations_that_would_not_be_carried_out_are_named() {
    let files = Files::new("annotated-wrong");
    let pods = pods().to_string();
    let wrong = annotated("{leasehold.dev/register: '', leasehold.dev/weight: heavy}");
    let error = planned(&files, &wrong, &pods).expect_err("refused").to_string();
    assert!(error.contains("leasehold.dev/weight: \"heavy\""), "{error}");
    let both = format!("{}---{REGISTRATION}", annotated("{leasehold.dev/register: ''}"));
    let error = planned(&files, &both, &pods).expect_err("refused").to_string();
    assert!(error.contains("a user's ServiceRegistration has the name"), "{error}");
    let plain = annotated("{leasehold.dev/weight: '1'}");
    let error = planned(&files, &plain, &pods).expect_err("nothing to plan");
    assert!(matches!(error, Error::Nothing), "{error}");
}

#[test]
fn registration_that_the_operator_keeps_is_planned_by_the_annotations() {
    let files = Files::new("kept");
    let kept = "
apiVersion: leasehold.dev/v1alpha1
kind: ServiceRegistration
metadata:
  name: orders
  labels: {app.kubernetes.io/managed-by: leasehold}
  ownerReferences: [{apiVersion: v1, kind: Service, name: orders, uid: u1, controller: true}]
spec: {service: {name: orders}, formats: [{type: EtcdGRPC}]}
";
    let service = annotated("{leasehold.dev/register: \"\", leasehold.dev/formats: Plain}");
    let found = planned(&files, &format!("{service}---{kept}"), &pods().to_string()).unwrap();
    let keys: Vec<&str> = found.lines().filter(|line| line.contains("10.0.0.")).collect();
    assert_eq!(keys.len(), 1, "{found}");
    assert!(keys[0].contains("/services/"), "{found}");
}

#[test]
fn a_node_in_the_file_of_pods_and_a_registry_show_attributes_of_nodes() {
    let files = Files::new("node-labels");
    let registration = format!(
        "{}\n  attributes: [{{name: cell, fromNodeLabel: example.org/rack}}]
---
apiVersion: leasehold.dev/v1alpha1
kind: Registry
metadata: {{name: default}}
spec: {{etcd: {{endpoints: [http://127.0.0.1:2379]}}, nodeLabels: [example.org/rack]}}
",
        REGISTRATION
            .replace("{type: Plain}, {type: EtcdGRPC}", "{type: Plain, plain: {value: JSON}}")
            .trim_end()
    );
    let mut objects = pods();
    objects["items"][0]["spec"]["nodeName"] = json!("n1");
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"example.org/rack": "r17"}},
    });
    objects["items"].as_array_mut().expect("a list").push(node);
    let text = planned(&files, &registration, &objects.to_string()).expect("a plan");
    assert!(text.contains("\"cell\":\"r17\""), "{text}");
}
