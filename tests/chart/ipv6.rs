//! Clusters whose addresses are of IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use testbed::process::{Port, http};
use testbed::{EtcdVersion, Folder, Result, until};
use tokio::process::Command;

use super::helm::{chart, helm};
use super::release::LONG;

/// Renders the chart with these values, which needs no cluster, and returns the object of this kind and name.
async fn render(sets: &[&str], kind: &str, name: &str) -> std::result::Result<Value, String> {
    let chart = chart().display().to_string();
    let mut words = vec!["template", "six", &chart];
    words.extend(sets.iter().flat_map(|set| ["--set", set]));
    let rendered = helm(Path::new("/dev/null"), &words).await?;
    let documents = rendered.split("\n---\n").filter(|document| document.contains("kind: "));
    let mut objects = documents.map(|document| serde_saphyr::from_str::<Value>(document).expect("YAML"));
    let found = objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    Ok(found.unwrap_or_else(|| panic!("no {kind} {name} in\n{rendered}")))
}

#[tokio::test]
async fn registry_with_ipv6_endpoints_renders_and_bare_addresses_are_rejected() {
    let endpoints = ["http://[2001:db8::5]:2379", "https://[fd00::1:2]:12379"];
    let list = format!("registry.endpoints={{{}}}", endpoints.join(","));
    let registry = render(&["registry.create=true", &list], "Registry", "default").await;
    let registry = registry.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(registry["spec"]["etcd"]["endpoints"], json!(endpoints));
    let bare = ["registry.create=true", "registry.endpoints={http://2001:db8::5:2379}"];
    let refused = render(&bare, "Registry", "default")
        .await
        .expect_err("it has no brackets");
    assert!(refused.contains("/registry/endpoints/0"), "{refused}");
}

#[tokio::test]
async fn etcd_of_the_chart_serves_clients_on_both_families() -> Result<()> {
    let values = ["etcd.create=true", "etcd.image.repository=mirror/etcd"];
    let deployment = render(&values, "Deployment", "six-leasehold-etcd").await;
    let deployment = deployment.unwrap_or_else(|error| panic!("{error}"));
    let command = &deployment["spec"]["template"]["spec"]["containers"][0]["command"];
    let words = command
        .as_array()
        .expect("a command")
        .iter()
        .map(|word| word.as_str().expect("text"));
    let (client, peer, folder) = (Port::reserve()?, Port::reserve()?, Folder::new("chart-etcd")?);
    let here = |word: &str| {
        let word = word.replace(":2379", &format!(":{}", client.number()));
        let word = word.replace(":2380", &format!(":{}", peer.number()));
        word.replace("/data/", &format!("{}/", folder.path().display()))
    };
    let binary = tokio::task::spawn_blocking(|| EtcdVersion::default().binary())
        .await
        .expect("no panic")?;
    let _etcd = Command::new(binary)
        .args(words.skip(1).map(here))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("etcd runs");
    let mut families = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, client.number()))];
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        families.push(SocketAddr::from((Ipv6Addr::LOCALHOST, client.number())));
    }
    for family in families {
        until("etcd to be ready", LONG, || async {
            match http::get(family, "/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{family}: {other:?}")),
            }
        })
        .await?;
    }
    Ok(())
}
