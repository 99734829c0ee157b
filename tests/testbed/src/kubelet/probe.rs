//! The kubelet's questions to a program: is it alive, is it ready.

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::time::{sleep, timeout};

use crate::{
    error::{Error, Result},
    process::http,
};

/// One probe of a container, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    path: String,
    server: SocketAddr,
    delay: Duration,
    period: Duration,
    patience: Duration,
    failures: u32,
}

impl Question {
    /// What a manifest asks; none when it asks nothing.
    pub fn of(probe: Option<&Probe>, container: &Container, address: &str) -> Result<Option<Self>> {
        let Some(probe) = probe else { return Ok(None) };
        let get = probe.http_get.as_ref();
        let get = get.ok_or_else(|| Error::Invalid("the bed asks probes by HTTP only".to_owned()))?;
        let port = match &get.port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let ports = container.ports.as_deref().unwrap_or_default();
                let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
                found.map(|port| port.container_port)
            }
        };
        let server = port.and_then(|port| format!("{address}:{port}").parse().ok());
        let server = server.ok_or_else(|| Error::Invalid(format!("there is no port {:?} to probe", get.port)))?;
        let seconds = |value: Option<i32>, default| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        Ok(Some(Self {
            path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            server,
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            patience: seconds(probe.timeout_seconds, 1),
            failures: probe
                .failure_threshold
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(3),
        }))
    }

    /// Asks until the answer is another one than this.
    pub async fn changes(&self, is: bool) {
        if !is {
            sleep(self.delay).await;
        }
        let mut failed = 0;
        loop {
            let answer = self.ask().await;
            failed = if answer { 0 } else { failed + 1 };
            if answer != is && (answer || failed >= self.failures) {
                return;
            }
            sleep(self.period).await;
        }
    }

    /// Returns once the answer has been no for too long.
    pub async fn fails(&self) {
        sleep(self.delay).await;
        let mut failed = 0;
        while failed < self.failures {
            sleep(self.period).await;
            failed = if self.ask().await { 0 } else { failed + 1 };
        }
    }

    async fn ask(&self) -> bool {
        let answer = timeout(self.patience, http::get(self.server, &self.path)).await;
        matches!(answer, Ok(Ok((200..=399, _))))
    }
}
