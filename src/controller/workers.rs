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

/// A worker to be started.
pub struct NewWorker {
    pub name: Arc<str>,
    pub spec: RegistrySpec,
    /// The version of the spec.
    pub version: Version,
    /// How to connect to the store, or why that is not possible.
    pub access: Result<Box<Access>, Trouble>,
    pub context: Context,
    /// From the controller.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// To the controller: whether this replica leads.
    pub leader: LeaderFlag,
    pub shutdown: CancellationToken,
}

type Tasks = JoinSet<Result<(), Failure>>;
type Launch = Box<dyn Fn(NewWorker, &mut Tasks) + Send + Sync>;

pub struct Workers {
    context: Context,
    launch: Launch,
    members: HashMap<Arc<str>, WorkerHandle>,
    tasks: Tasks,
    shutdown: CancellationToken,
}

struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    leader: LeaderFlag,
    end: CancellationToken,
}

impl Workers {
    /// Returns workers that write to etcd, each in its own task.
    pub fn of_etcd(context: Context, shutdown: CancellationToken) -> Self {
        Self::new(context, shutdown, |new, tasks| {
            tasks.spawn(async move {
                let backend = connect(&new).await;
                serve(new, backend).await
            });
        })
    }

    /// Returns workers that `launch` starts.
    pub fn new(
        context: Context,
        shutdown: CancellationToken,
        launch: impl Fn(NewWorker, &mut Tasks) + Send + Sync + 'static,
    ) -> Self {
        Self {
            context,
            launch: Box::new(launch),
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
        let (leader, end) = (LeaderFlag::default(), self.shutdown.child_token());
        let new = NewWorker {
            name: registry.clone(),
            spec,
            version,
            access,
            context: self.context.clone(),
            commands: incoming,
            leader: leader.clone(),
            shutdown: end.clone(),
        };
        (self.launch)(new, &mut self.tasks);
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
async fn connect(new: &NewWorker) -> Result<etcd::Connection, Trouble> {
    let access = new.access.as_ref().map_err(Clone::clone)?;
    let (timeouts, calls) = (new.context.timeouts, new.context.metrics.calls.clone());
    let connection = etcd::Connection::new(access, timeouts, calls).await;
    connection.map_err(|error| backend::Error::from(error).into())
}
