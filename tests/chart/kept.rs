//! A Registry that an uninstalled release has left, and a release of another name or namespace.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use testbed::{Bed, Result, shared};

use super::TURN;
use super::helm::{chart, delete_registry, helm, kubectl};
use super::support::API;

/// The page of the chart has one command for each of these steps.
struct Page {
    uninstall: String,
    take_ownership: String,
    annotate: String,
}

impl Page {
    fn read() -> Self {
        let page = fs::read_to_string(chart().join("README.md")).expect("it is there");
        let (_, section) = page
            .split_once("### Moving to another release name or namespace\n")
            .expect("the section");
        let (section, _) = section.split_once("\n## ").expect("the next section");
        let blocks = section.split("```sh\n").skip(1);
        let text: String = blocks
            .map(|block| block.split("```").next().expect("a block"))
            .collect();
        let text = text.replace("\\\n", " ");
        let command = |begin: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(begin));
            lines
                .next()
                .unwrap_or_else(|| panic!("no {begin} in\n{text}"))
                .to_owned()
        };
        Self {
            uninstall: command("helm uninstall"),
            take_ownership: command("helm install"),
            annotate: command("kubectl annotate"),
        }
    }
}

/// The names on the page, and those of the test.
type Names = BTreeMap<&'static str, String>;

/// The words of a command on the page, with the names of the test, as a shell passes them.
fn words(command: &str, names: &Names) -> Vec<String> {
    let command = command.split(" #").next().expect("a command");
    let words = command.split_whitespace().skip(1).map(|word| word.trim_matches('\''));
    let renamed = |word: &str| {
        let (key, name) = word.rsplit_once('=').map_or(("", word), |(key, name)| (key, name));
        let name = names.get(name).map_or(name, String::as_str);
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}={name}")
        }
    };
    words.map(renamed).collect()
}

async fn run_helm(bed: &Bed, words: &[String]) -> std::result::Result<String, String> {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let chart = chart().display().to_string();
    for word in &mut words {
        if *word == "charts/leasehold" {
            *word = &chart;
        }
    }
    helm(bed.kubeconfig(), &words).await
}

#[tokio::test]
async fn kept_registry_is_taken_over_by_another_release_as_the_page_says() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let (one, two) = (bed.namespace("chart-one").await?, bed.namespace("chart-two").await?);
    let registry = one.name().to_owned();
    let page = Page::read();
    let names = |releases: [&str; 2], namespaces: [&str; 2]| -> Names {
        let pairs = ["a", "b"]
            .into_iter()
            .zip(releases)
            .chain(["one", "two"].into_iter().zip(namespaces));
        let mut names: Names = pairs.map(|(page, test)| (page, test.to_owned())).collect();
        names.insert("default", registry.clone());
        names
    };
    let forth = names(["kept-a", "kept-b"], [one.name(), two.name()]);
    let back = names(["kept-b", "kept-a"], [two.name(), one.name()]);
    // No operator is needed, and the Registry has a name of its own.
    let install = |names: &Names, is_owner: bool| {
        let mut words = words(&page.take_ownership, names);
        words.retain(|word| is_owner || word != "--take-ownership");
        words.push(format!("--set=registry.name={registry},replicaCount=0"));
        words
    };
    let uid = async || -> Result<Value> {
        let registry = bed.objects().get(API, "Registry", &registry).await?;
        Ok(registry.expect("it is there")["metadata"]["uid"].clone())
    };
    let succeeds = async |words: Vec<String>| {
        let reported = run_helm(bed, &words).await;
        reported.unwrap_or_else(|error| panic!("helm {}: {error}", words.join(" ")))
    };
    let is_refused = async |words: Vec<String>| {
        let reported = run_helm(bed, &words)
            .await
            .expect_err("the Registry is of another release");
        assert!(reported.contains("invalid ownership metadata"), "{reported}");
    };

    succeeds(install(&back, false)).await;
    let first = uid().await?;
    let reported = succeeds(words(&page.uninstall, &forth)).await;
    assert!(reported.contains(&format!("[Registry] {registry}")), "{reported}");

    is_refused(install(&forth, false)).await;
    succeeds(install(&forth, true)).await;
    assert_eq!(uid().await?, first, "the Registry is still the same");
    succeeds(words(&page.uninstall, &back)).await;

    is_refused(install(&back, false)).await;
    let annotate = words(&page.annotate, &back);
    let annotate: Vec<&str> = annotate.iter().map(String::as_str).collect();
    kubectl(bed, &annotate, "")
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    succeeds(install(&back, false)).await;
    assert_eq!(uid().await?, first, "the Registry is still the same");

    succeeds(words(&page.uninstall, &forth)).await;
    delete_registry(bed, &registry).await
}
