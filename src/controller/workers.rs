//! Starts and stops the workers, one per Registry.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::RegistrySpec;
use crate::backend::{self, Access, etcd};
use crate::controller::failure::Failure;
use crate::controller::gates::GateEvent;
use crate::controller::worker::{Command, Context, Trouble, Version, serve};
use crate::model::LeaderFlag;

pub struct Workers {
    context: Context,
    members: HashMap<Arc<str>, WorkerHandle>,
    tasks: JoinSet<Result<(), Failure>>,
    shutdown: CancellationToken,
}

struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    leader: LeaderFlag,
    end: CancellationToken,
}

impl Workers {
    pub fn new(context: Context, shutdown: CancellationToken) -> Self {
        Self {
            context,
            members: HashMap::new(),
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    /// Sets the cluster that new workers serve. No worker of another cluster may be left.
    pub fn serve_cluster(&mut self, id: Arc<str>) {
        self.context.cluster_id = id;
    }

    /// Number of workers that were ever started.
    #[cfg(test)]
    pub fn started(&self) -> usize {
        self.tasks.len()
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Starts a worker for `registry` and stops the former one. Without an access the worker only reports the trouble.
    /// The new worker takes over the former one's keys in etcd, as after a restart.
    pub fn start(
        &mut self,
        registry: &Arc<str>,
        spec: RegistrySpec,
        version: Version,
        access: Result<Box<Access>, Trouble>,
    ) {
        self.stop(registry);
        let (commands, incoming) = mpsc::unbounded_channel();
        let end = self.shutdown.child_token();
        let (name, context) = (registry.clone(), self.context.clone());
        let leader = LeaderFlag::default();
        let channels = (incoming, leader.clone());
        let shutdown = end.clone();
        self.tasks.spawn(async move {
            let backend = connect(access, &context).await;
            serve(name, (spec, version), backend, context, channels, shutdown).await
        });
        let handle = WorkerHandle { commands, leader, end };
        self.members.insert(registry.clone(), handle);
    }

    /// Stops the worker of `registry`, if there is one. Its leases are no longer renewed.
    pub fn stop(&mut self, registry: &str) {
        if let Some(member) = self.members.remove(registry) {
            member.end.cancel();
            member.leader.revoke();
            // The receiver ends only with the process.
            let _ = self.context.gates.send(GateEvent::Stopped(registry.into()));
        }
    }

    /// Returns whether this replica leads `registry`. The flag of a Registry without a worker is never set.
    pub fn leader_flag(&self, registry: &str) -> LeaderFlag {
        let member = self.members.get(registry);
        member.map(|member| member.leader.clone()).unwrap_or_default()
    }

    pub fn send(&self, registry: &str, command: Command) {
        if let Some(member) = self.members.get(registry) {
            // A failed send means that the worker has ended, which [`Self::failure`] will report.
            let _ = member.commands.send(command);
        }
    }

    pub fn send_all(&self, command: impl Fn() -> Command) {
        for registry in self.members.keys() {
            self.send(registry, command());
        }
    }

    /// Waits until a worker fails. Never returns if none does.
    pub async fn failure(&mut self) -> Failure {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(failure))) => return failure,
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all workers have ended, as they do on shutdown.
    pub async fn retire(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Prepares the connection to the etcd of a Registry.
async fn connect(access: Result<Box<Access>, Trouble>, context: &Context) -> Result<etcd::Connection, Trouble> {
    let connection = etcd::Connection::new(&*access?, context.timeouts, context.metrics.calls.clone()).await;
    connection.map_err(|error| backend::Error::from(error).into())
}
