//! By which way the program is reached, and by which way it reaches Kubernetes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testbed::process::http;
use testbed::{Bed, Folder, Result, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::SOON;

/// A port that is free on both families.
fn free_port() -> u16 {
    let listener = leasehold::listen::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    listener.expect("a port").local_addr().expect("an address").port()
}

#[tokio::test]
async fn probes_answer_on_both_ip_families_and_the_last_repeated_flag_wins() -> Result<()> {
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

/// A proxy of HTTP (CONNECT) and SOCKS5 that leads to one address, whatever is asked for, and remembers that.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(leads_to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, leads_to, Arc::clone(&all)));
            }
        });
        Self { address, asked }
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

async fn serve(mut client: TcpStream, leads_to: SocketAddr, asked: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let mut first = [0; 1];
    client.peek(&mut first).await?;
    let (wanted, answer): (String, &[u8]) = if first[0] == 5 {
        let mut greeting = [0; 2];
        client.read_exact(&mut greeting).await?;
        let mut methods = vec![0; greeting[1].into()];
        client.read_exact(&mut methods).await?;
        client.write_all(&[5, 0]).await?;
        let mut request = [0; 4];
        client.read_exact(&mut request).await?;
        let length = match request[3] {
            1 => 4,
            4 => 16,
            _ => client.read_u8().await?.into(),
        };
        let mut host = vec![0; length];
        client.read_exact(&mut host).await?;
        let port = client.read_u16().await?;
        let host = match request[3] {
            3 => String::from_utf8_lossy(&host).into_owned(),
            _ => format!("{host:?}"),
        };
        (format!("{host}:{port}"), &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let wanted = head.split(' ').nth(1).unwrap_or_default().to_owned();
        (wanted, b"HTTP/1.1 200 OK\r\n\r\n")
    };
    asked.lock().expect("no panic").push(wanted);
    client.write_all(answer).await?;
    let mut server = TcpStream::connect(leads_to).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The bed's kubeconfig with these fields of its cluster, in a file of this name.
fn kubeconfig(bed: &Bed, name: &str, cluster: &Value) -> PathBuf {
    let text = std::fs::read_to_string(bed.kubeconfig()).expect("it is there");
    let mut config: Value = serde_saphyr::from_str(&text).expect("YAML");
    for (field, value) in cluster.as_object().expect("fields") {
        config["clusters"][0]["cluster"][field] = value.clone();
    }
    let path = bed.folder().path().join(name);
    std::fs::write(&path, config.to_string()).expect("it is written");
    path
}

/// Where the apiserver of the bed really is.
fn apiserver(bed: &Bed) -> SocketAddr {
    let text = std::fs::read_to_string(bed.kubeconfig()).expect("it is there");
    let config: Value = serde_saphyr::from_str(&text).expect("YAML");
    let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a server");
    let server = server.strip_prefix("https://").expect("https").trim_end_matches('/');
    server.parse().expect("an address")
}

/// What `leasehold doctor` says of the Registry `default` with this environment.
async fn doctor(kubeconfig: &PathBuf, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command
        .args(["doctor", "--registry=default", "--kubeconfig"])
        .arg(kubeconfig);
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ] {
        command.env_remove(name);
    }
    command
        .envs(env.iter().copied())
        .output()
        .await
        .expect("leasehold is there")
}

#[tokio::test]
async fn apiserver_is_reached_by_the_proxy_of_kubectl_and_etcd_directly() -> Result<()> {
    let bed = crate::bed().await;
    let server = apiserver(bed);
    let proxy = Proxy::start(server).await;
    let port = server.port();
    let (by_http, by_socks) = (
        format!("http://{}", proxy.address),
        format!("socks5://{}", proxy.address),
    );
    let direct = kubeconfig(bed, "direct.kubeconfig", &json!({}));
    // A name that only the proxy knows.
    let far = json!({"server": format!("https://kube.test:{port}"), "tls-server-name": "127.0.0.1"});
    let far = kubeconfig(bed, "far.kubeconfig", &far);
    let named = kubeconfig(bed, "named.kubeconfig", &json!({"proxy-url": by_http}));
    let dead = "http://127.0.0.1:9";
    let to_far = format!("kube.test:{port}");
    let to_server = format!("127.0.0.1:{port}");
    for (file, env, asked) in [
        (
            &direct,
            vec![("HTTPS_PROXY", dead), ("NO_PROXY", "127.0.0.1,localhost,.svc")],
            None,
        ),
        (&direct, vec![("https_proxy", dead), ("no_proxy", "127.0.0.0/8,")], None),
        (
            &far,
            vec![("HTTPS_PROXY", by_http.as_str()), ("NO_PROXY", "127.0.0.1,.svc,")],
            Some(&to_far),
        ),
        (&far, vec![("https_proxy", by_socks.as_str())], Some(&to_far)),
        (&named, vec![("NO_PROXY", "*")], Some(&to_server)),
    ] {
        let output = doctor(file, &env).await;
        let reported = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(reported.contains("kube-apiserver v1."), "{env:?}: {output:?}");
        assert!(reported.contains("leases of 30 s are granted"), "{env:?}: {reported}");
        let mut all = proxy.asked();
        all.dedup();
        assert_eq!(
            all,
            asked.map(|wanted| vec![wanted.clone()]).unwrap_or_default(),
            "{env:?}"
        );
    }
    for (file, env, words) in [
        (
            &far,
            vec![("HTTPS_PROXY", dead)],
            "the proxy http://127.0.0.1:9 (the environment variable HTTPS_PROXY)",
        ),
        (
            &far,
            vec![("https_proxy", "socks4://p:1")],
            "the environment variable https_proxy is not a usable proxy",
        ),
    ] {
        let output = doctor(file, &env).await;
        assert!(!output.status.success(), "{output:?}");
        let reported = [output.stdout, output.stderr].concat();
        let reported = String::from_utf8_lossy(&reported).into_owned();
        assert!(reported.contains(words), "{env:?}: {reported}");
    }
    Ok(())
}
