//! The registrars: one for each Registry, started and ended as Registries come and go.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::RegistrySpec;
use crate::controller::failure::Failure;
use crate::controller::worker::{Command, Context, Trouble, Version, serve};
use crate::etcd::Access;

/// All registrars.
pub struct Workers {
    context: Context,
    members: HashMap<Arc<str>, WorkerHandle>,
    tasks: JoinSet<Result<(), Failure>>,
    shutdown: CancellationToken,
}

/// One registrar.
struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    end: CancellationToken,
}

impl Workers {
    /// Nobody yet.
    pub fn new(context: Context, shutdown: CancellationToken) -> Self {
        Self {
            context,
            members: HashMap::new(),
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    /// From now on registrars serve this cluster. There must be none that serves another.
    pub fn serve_cluster(&mut self, id: Arc<str>) {
        self.context.cluster_id = id;
    }

    /// How many registrars were ever engaged.
    #[cfg(test)]
    pub fn started(&self) -> usize {
        self.tasks.len()
    }

    /// What registrars share.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Starts a registrar for `registry`, in the place of one that may be there; without an access it only says so. The new one takes over what the old
    /// one has in etcd, as after a restart.
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
        self.tasks
            .spawn(serve(name, (spec, version), access, context, incoming, end.clone()));
        self.members.insert(registry.clone(), WorkerHandle { commands, end });
    }

    /// Ends the registrar of `registry`, if there is one. What it has in etcd is renewed no more.
    pub fn stop(&mut self, registry: &str) {
        if let Some(member) = self.members.remove(registry) {
            member.end.cancel();
        }
    }

    /// Gives an order to the registrar of `registry`.
    pub fn send(&self, registry: &str, command: Command) {
        if let Some(member) = self.members.get(registry) {
            // One that has ended is about to be noticed.
            let _ = member.commands.send(command);
        }
    }

    /// Gives an order to every registrar.
    pub fn send_all(&self, command: impl Fn() -> Command) {
        for registry in self.members.keys() {
            self.send(registry, command());
        }
    }

    /// Waits until a registrar ends that was not dismissed; for ever if none does.
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

    /// Waits until all have ended, which they do on shutdown.
    pub async fn retire(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
