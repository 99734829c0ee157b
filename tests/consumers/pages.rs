//! `docs/consumers`, `docs/addresses.md` and `docs/migrating.md`: what they show is taken by a real kube-apiserver, and writes what they say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testbed::Result;

use crate::Turn;
use crate::plan::plan;
use crate::support::API;

/// A registration on a page, and the keys and values that the page says it writes.
struct Shown {
    page: PathBuf,
    manifest: String,
    writes: String,
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The blocks of code on a page, each with its language.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(language), false) => {
                blocks.push((language, String::new()));
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => {
                let (_, block) = blocks.last_mut().expect("one has begun");
                block.push_str(line);
                block.push('\n');
            }
            (None, false) => {}
        }
    }
    blocks
}

/// All registrations on all pages, each with the block of text after it.
fn shown() -> Vec<Shown> {
    let folder = std::fs::read_dir(docs().join("consumers")).expect("the pages are there");
    let mut pages: Vec<PathBuf> = folder.map(|entry| entry.expect("it can be listed").path()).collect();
    pages.extend(["migrating.md", "addresses.md"].map(|page| docs().join(page)));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    let mut shown = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("it can be read");
        let blocks = blocks(&text);
        for pair in blocks.windows(2) {
            if pair[0].0 == "yaml" && pair[0].1.contains("kind: ServiceRegistration") {
                assert_eq!(pair[1].0, "text", "{}: what it writes follows", page.display());
                shown.push(Shown {
                    page: page.clone(),
                    manifest: pair[0].1.clone(),
                    writes: pair[1].1.clone(),
                });
            }
        }
    }
    shown
}

/// The RecordFormats that are shipped, each with its file.
fn record_formats() -> Vec<(PathBuf, String)> {
    let folder = std::fs::read_dir(docs().join("record-formats")).expect("they are there");
    let files = folder.map(|entry| entry.expect("it can be listed").path());
    files
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("it can be read");
            (file, text)
        })
        .collect()
}

#[test]
fn the_page_of_custom_formats_shows_one_that_is_shipped_and_names_all() {
    let text = std::fs::read_to_string(docs().join("consumers/custom.md")).expect("it can be read");
    let blocks = blocks(&text);
    let (_, shown) = blocks
        .iter()
        .find(|(_, block)| block.contains("kind: RecordFormat"))
        .expect("it shows one");
    let shipped = record_formats();
    assert!(shipped.iter().any(|(_, text)| text == shown), "{shown}");
    for (file, _) in shipped {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
            .to_owned();
        assert!(text.contains(&format!("../record-formats/{name}")), "{name}");
    }
}

#[test]
fn every_page_says_what_its_registration_writes() {
    let folder = testbed::Folder::new("pages").expect("a folder");
    let file = folder.path().join("registration.yaml");
    for Shown { page, manifest, writes } in shown() {
        std::fs::write(&file, manifest).expect("it can be written");
        let cluster = match page.file_name().and_then(|name| name.to_str()) {
            Some("addresses.md") => docs().join("addresses.yaml"),
            _ => docs().join("consumers/pods.yaml"),
        };
        let args = [
            "-f",
            file.to_str().expect("UTF-8"),
            "--pods",
            cluster.to_str().expect("UTF-8"),
        ];
        let formats = record_formats();
        let formats = formats
            .iter()
            .flat_map(|(file, _)| ["-f", file.to_str().expect("UTF-8")]);
        let formats: Vec<&str> = formats.collect();
        let output = plan(&[&args[..], &formats, &["-o", "json"]].concat());
        let reported = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}: {reported}", page.display());
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let keys = plan["registrations"][0]["keys"].as_array().expect("keys");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |key: &Value| format!("{}  {}\n", text(&key["key"]), text(&key["after"]));
        assert_eq!(keys.iter().map(line).collect::<String>(), writes, "{}", page.display());
        assert_eq!(
            plan["registrations"][0]["problems"],
            serde_json::json!([]),
            "{}",
            page.display()
        );
    }
}

#[tokio::test]
async fn every_page_s_registration_is_taken_by_the_apiserver() -> Result<()> {
    let turn = Turn::take("pages", 1, 30).await?;
    let namespace = turn.bed.namespace_named("shop").await?;
    let mut formats = BTreeSet::new();
    for Shown { page, manifest, .. } in shown() {
        let object: Value = serde_saphyr::from_str(&manifest).expect("YAML");
        let applied = namespace.apply(object).await;
        let applied = applied.unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let types = applied["spec"]["formats"].as_array().expect("formats");
        formats.extend(
            types
                .iter()
                .map(|format| format["type"].as_str().unwrap_or_default().to_owned()),
        );
        let name = applied["metadata"]["name"].as_str().expect("a name");
        namespace.objects().delete(API, "ServiceRegistration", name).await?;
    }
    // A page for each format that there is.
    let crd = leasehold::api::manifests()
        .into_iter()
        .map(|(_, text)| text)
        .find(|text| text.contains("kind: ServiceRegistration"));
    let crd: Value = serde_saphyr::from_str(&crd.expect("it has a definition")).expect("YAML");
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let all = &spec["properties"]["formats"]["items"]["properties"]["type"]["enum"];
    let all: BTreeSet<String> = serde_json::from_value(all.clone()).expect("names");
    assert_eq!(formats, all);
    Ok(())
}
