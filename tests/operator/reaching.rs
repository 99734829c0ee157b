//! By which way the program is reached.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;

use serde_json::json;
use testbed::process::http;
use testbed::{Folder, Result, until};
use tokio::process::Command;

use crate::support::SOON;

/// A port that is free on both families.
fn free_port() -> u16 {
    let listener = leasehold::listen::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    listener.expect("a port").local_addr().expect("an address").port()
}

#[tokio::test]
async fn probes_are_answered_on_both_families_and_the_last_of_repeated_flags_counts() -> Result<()> {
    let folder = Folder::new("families")?;
    let kubeconfig = folder.path().join("kubeconfig");
    // It answers while the apiserver does not.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).expect("it is written");
    let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for flags in [
        ["--http=0.0.0.0:PORT", ""],
        ["--http=[::]:PORT", ""],
        ["--http=127.0.0.1:1", "--http=[::]:PORT"],
    ] {
        let port = free_port();
        let flags = flags.into_iter().filter(|flag| !flag.is_empty());
        let mut program = Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .args(["run", "--identity=families", "--kubeconfig"])
            .arg(&kubeconfig)
            .args(flags.map(|flag| flag.replace("PORT", &port.to_string())))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("leasehold is there");
        let mut families = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        if has_ipv6 {
            families.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        }
        for family in families {
            until("it to answer", SOON, || async {
                match http::get(family, "/healthz").await {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{family}: {other:?}")),
                }
            })
            .await?;
        }
        program.kill().await.expect("it ends");
    }
    Ok(())
}
