//! The load on a rollout: consumers that call at a steady rate, and how many of their calls failed.

use std::fmt;

use serde::Deserialize;
use testbed::Result;

use crate::Turn;
use crate::consumer::Consumer;
use crate::programs::{self, CoreDns, Traefik};
use crate::scene::domain;

/// The key under which go-zero's clients look for the pods.
pub fn go_zero_key(turn: &Turn) -> String {
    format!("{}.orders.rpc", turn.namespace.name())
}

/// A consumer that calls until [`Load::end`].
pub struct Load {
    client: &'static str,
    consumer: Consumer,
}

/// The calls of one consumer.
#[derive(Clone, Debug, Deserialize)]
pub struct Counts {
    #[serde(skip)]
    pub client: &'static str,
    pub calls: u64,
    pub failed: u64,
    /// When the first of them failed, and why.
    pub first_failures: Vec<String>,
}

impl Load {
    /// Starts one consumer of each kind and waits until each has found the service. HTTP is served on `http_port`.
    pub async fn start_all(
        turn: &Turn,
        core_dns: &CoreDns,
        traefik: Option<&Traefik>,
        http_port: u16,
    ) -> Result<Vec<Self>> {
        let etcd = turn.etcd.endpoints().join(",");
        let target = format!("{}/orders", turn.namespace.name());
        let by_name = vec![
            core_dns.address().to_string(),
            domain("orders", turn),
            http_port.to_string(),
        ];
        let clients = [
            ("grpc", vec![etcd.clone(), target]),
            ("go-zero", vec![programs::etcd_hosts(turn), go_zero_key(turn)]),
            ("kitex", vec![etcd, "orders".to_owned()]),
            ("http", by_name),
        ];
        let over_traefik = traefik.map(|traefik| ("traefik", vec![traefik.address().to_string()]));
        let mut loads = Vec::new();
        for (client, args) in clients.into_iter().chain(over_traefik) {
            let consumer = programs::load(turn, client, args)?;
            loads.push(Self { client, consumer });
        }
        for load in &loads {
            load.consumer.wait_true("found").await?;
        }
        Ok(loads)
    }

    /// Ends it and returns what it has counted.
    pub async fn end(&self) -> Result<Counts> {
        self.consumer.end().await?;
        let reported = self.consumer.reported();
        let counts = reported.into_iter().rfind(|line| line["calls"].is_u64());
        let counts = counts.unwrap_or_else(|| panic!("{} has counted its calls", self.consumer.name()));
        let counts: Counts = serde_json::from_value(counts).expect("counts");
        let client = self.client;
        Ok(Counts { client, ..counts })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {:>10} {:>8}", self.client, self.calls, self.failed)?;
        for failure in &self.first_failures {
            write!(f, "\n    {failure}")?;
        }
        Ok(())
    }
}
