//! toxiproxy and the ways through it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    error::{Doing, Error, Result},
    process::{Folder, Port, Process, Spec, http},
    tools::Tool,
    wait::until,
};

/// How long the proxy may take to serve after its start.
const START: Duration = Duration::from_secs(30);

/// A running toxiproxy. It ends with this value and the last [`Link`] of it.
#[derive(Clone, Debug)]
pub struct Network {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    _process: Process,
    api: Port,
    count: AtomicU64,
    // After the process, so that it is removed once that is gone.
    _folder: Option<Folder>,
}

/// A way to one server: a client that connects to its address reaches the server, until a test breaks the way.
#[derive(Debug)]
pub struct Link {
    server: Arc<Server>,
    name: String,
    port: Port,
}

/// The directions of a connection, in toxiproxy's words.
const DIRECTIONS: [&str; 2] = ["upstream", "downstream"];

impl Network {
    /// Starts one that logs to the folder `logs`.
    pub async fn start(logs: &Path) -> Result<Self> {
        Self::start_in(logs, None).await
    }

    /// Starts one with a folder of its own.
    pub async fn temporary() -> Result<Self> {
        let folder = Folder::new("network")?;
        let logs = folder.path().to_owned();
        Self::start_in(&logs, Some(folder)).await
    }

    async fn start_in(logs: &Path, folder: Option<Folder>) -> Result<Self> {
        let program = tokio::task::spawn_blocking(|| Tool::Toxiproxy.binary())
            .await
            .expect("building does not panic")?;
        let api = Port::reserve()?;
        let spec =
            Spec::new("toxiproxy", program, logs).args(["-host", "127.0.0.1", "-port", &api.number().to_string()]);
        let process = Process::start(spec)?;
        let ready = until("toxiproxy to serve", START, || async {
            match http::get(api.address(), "/version").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status}: {body}")),
                Err(error) => Err(error.to_string()),
            }
        });
        process.while_alive(ready).await?;
        Ok(Self {
            server: Arc::new(Server {
                _process: process,
                api,
                count: AtomicU64::new(0),
                _folder: folder,
            }),
        })
    }

    /// A new way to `to`.
    pub async fn link(&self, to: SocketAddr) -> Result<Link> {
        let port = Port::reserve()?;
        let number = self.server.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("link-{number}");
        let proxy = json!({
            "name": name,
            "listen": port.address().to_string(),
            "upstream": to.to_string(),
            "enabled": true,
        });
        self.server.order("POST", "/proxies", &proxy).await?;
        Ok(Link {
            server: self.server.clone(),
            name,
            port,
        })
    }
}

impl Server {
    async fn order(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let doing = || format!("order toxiproxy to {method} {path}");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        match http::send(self.api.address(), method, path, &body).await.doing(doing)? {
            (200..=299, _) => Ok(()),
            (status, said) => Err(Error::Invalid(format!(
                "toxiproxy answers {status} to {method} {path}: {said}"
            ))),
        }
    }
}

impl Link {
    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http(&self) -> String {
        self.port.http()
    }

    /// From now on everything takes this much longer, half of it on the way there and half on the way back. A new
    /// connection stands at once and what it carries is late.
    pub async fn slow(&self, round_trip: Duration) -> Result<()> {
        let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(u64::MAX);
        self.spoil("latency", &json!({"latency": half})).await
    }

    /// From now on no more than this passes in each direction, in KiB per second.
    pub async fn narrow(&self, kib_per_second: u32) -> Result<()> {
        self.spoil("bandwidth", &json!({"rate": kib_per_second})).await
    }

    /// From now on nothing arrives in either direction, and neither side gets an error: connections stay open and new
    /// ones are accepted. Healing closes the connections that were open before, because a part of their data is lost.
    pub async fn dark(&self) -> Result<()> {
        self.spoil("timeout", &json!({"timeout": 0})).await
    }

    /// Resets every connection that carries something, now and from now on.
    pub async fn reset(&self) -> Result<()> {
        self.spoil("reset_peer", &json!({"timeout": 0})).await
    }

    /// Makes it good again, whatever was done to it.
    pub async fn heal(&self) -> Result<()> {
        let (_, body) = http::get(self.server.api.address(), &format!("/proxies/{}/toxics", self.name))
            .await
            .doing(|| format!("ask toxiproxy for {}", self.name))?;
        let toxics: Vec<Value> = serde_json::from_str(&body)
            .map_err(|error| Error::Invalid(format!("toxiproxy answers {body:?}, which is not a list: {error}")))?;
        for toxic in toxics {
            let path = format!(
                "/proxies/{}/toxics/{}",
                self.name,
                toxic["name"].as_str().unwrap_or_default()
            );
            self.server.order("DELETE", &path, &Value::Null).await?;
        }
        Ok(())
    }

    async fn spoil(&self, kind: &str, attributes: &Value) -> Result<()> {
        for direction in DIRECTIONS {
            let toxic = json!({
                "name": format!("{kind}-{direction}"),
                "type": kind,
                "stream": direction,
                "attributes": attributes,
            });
            let path = format!("/proxies/{}/toxics", self.name);
            self.server.order("POST", &path, &toxic).await?;
        }
        Ok(())
    }
}
