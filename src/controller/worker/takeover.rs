//! Delays writes after a takeover: a new leader must have observed as much of Kubernetes as its predecessor. Otherwise
//! the predecessor's writes would be undone and repeated.

use std::time::{Duration, Instant};

use super::write_slots::WriteSlot;
use super::{Done, Outdated, RegistryWorker};
use crate::backend::{self, Backend};
use crate::model::{Backoff, Checkpoint, Fence, Freshness, Key, KeyValue, Transaction};

/// What a new leader has to observe before it writes.
#[derive(Debug)]
pub(super) struct CatchingUp {
    /// The fence under which it leads.
    fence: Fence,
    /// The merged checkpoint of former leaders, and when it was read. None until then.
    checkpoints: Option<(Checkpoint, Instant)>,
    /// Whether a checkpoint could not be read. Then this replica has to observe as much as any replica can have
    /// observed.
    unread: bool,
    /// Whether the delay was logged.
    reported: bool,
    /// The pauses before the watches that lack something list again.
    relists: Backoff,
}

/// A watch that lacks something is given this long to receive it, before it lists again. Doubled up to [`LONGEST_PAUSE`]:
/// a list of a large cluster takes long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl<B: Backend> RegistryWorker<B> {
    /// Starts catching up under a new fence. No other replica can have written since this replica got it, so the
    /// current checkpoints cover everything that a predecessor acted on.
    pub(super) fn catch_up(&mut self, fence: Fence) {
        let won = fence.clone();
        self.catching_up = Some(CatchingUp {
            fence,
            checkpoints: None,
            unread: false,
            reported: false,
            relists: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        });
        self.read_checkpoints(won, Duration::ZERO);
    }

    /// Has the watches that still lack something list again. An idle watch reaches the present version only when it ends.
    pub(super) fn still_behind(&mut self, fence: &Fence) {
        self.has_caught_up();
        let Some(catching_up) = self.catching_up.as_mut().filter(|one| one.fence == *fence) else {
            return;
        };
        let Some((needed, since)) = &catching_up.checkpoints else {
            return;
        };
        let lacks = if catching_up.unread {
            self.context.checkpoint.watch_scope().targets().collect()
        } else {
            self.freshness.borrow().lacks(needed, *since)
        };
        for target in &lacks {
            self.context.checkpoint.relist(target);
        }
        let pause = catching_up.relists.next_pause();
        self.look_whether_behind(fence.clone(), pause);
    }

    fn look_whether_behind(&mut self, fence: Fence, pause: Duration) {
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::StillBehind { fence }
        });
    }

    /// Reads the checkpoints of former leaders after a pause.
    fn read_checkpoints(&mut self, fence: Fence, pause: Duration) {
        let (backend, checkpoints) = (self.backend.clone(), self.planner.checkpoints());
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let (checkpoints, at) = (backend.list(&checkpoints).await, Instant::now());
            Done::CheckpointsRead { fence, checkpoints, at }
        });
    }

    /// Handles the checkpoints of former leaders. Until they can be read, nothing is written, which is reported like
    /// any other failure to write.
    pub(super) fn checkpoints_read(
        &mut self,
        fence: &Fence,
        checkpoints: backend::Result<Vec<(Key, KeyValue)>>,
        at: Instant,
    ) {
        if self.catching_up.as_ref().is_none_or(|one| one.fence != *fence) {
            return;
        }
        let checkpoints = match checkpoints {
            Ok(checkpoints) => checkpoints,
            Err(error) => {
                let pause = self
                    .writing
                    .failed("reading the checkpoints of former leaders", &self.name, &error);
                return self.read_checkpoints(fence.clone(), pause);
            }
        };
        self.writing.succeeded();
        let Some(catching_up) = self.catching_up.as_mut() else {
            return;
        };
        let mut reached = Checkpoint::default();
        for (key, checkpoint) in &checkpoints {
            if let Some(checkpoint) = Checkpoint::read(&checkpoint.value) {
                reached.merge(checkpoint);
                continue;
            }
            catching_up.unread = true;
            tracing::warn!(
                registry = %self.name, %key,
                "a former leader's checkpoint cannot be read, perhaps because a newer release wrote it: nothing is \
                 written until this replica has observed everything that the checkpoint can cover"
            );
        }
        let watched = Freshness::new(self.context.checkpoint.watch_scope().targets());
        let beyond = watched.beyond(&reached);
        if !beyond.is_empty() {
            let beyond: Vec<_> = beyond.iter().map(ToString::to_string).collect();
            tracing::warn!(
                registry = %self.name, ?beyond,
                "former leaders watched namespaces that this replica does not watch: their remaining keys are removed, \
                 unless spec.guard holds them"
            );
        }
        catching_up.checkpoints = Some((reached, at));
        let pause = catching_up.relists.next_pause();
        self.has_caught_up();
        if self.catching_up.is_some() {
            self.look_whether_behind(fence.clone(), pause);
        }
    }

    /// Checks whether enough has been observed. A stale view never qualifies: its watches are silent, and what they
    /// miss is not known. If only some namespaces are stale, they too must be observed as far as the checkpoints say,
    /// and the other namespaces are served.
    pub(super) fn has_caught_up(&mut self) {
        let Some(CatchingUp {
            checkpoints: Some((needed, since)),
            unread,
            reported,
            ..
        }) = &mut self.catching_up
        else {
            return;
        };
        let freshness = self.freshness.borrow_and_update();
        if *unread {
            let Some(presents) = freshness.presents(*since) else {
                return;
            };
            needed.merge(presents);
            *unread = false;
        }
        let lacks = freshness.lacks(needed, *since);
        let outdated = self.kubernetes.outdated.as_ref().is_some_and(Outdated::is_general);
        if lacks.is_empty() && !outdated {
            self.catching_up = None;
        } else if !std::mem::replace(reported, true) {
            tracing::warn!(
                registry = %self.name, lacks = ?lacks.iter().map(ToString::to_string).collect::<Vec<_>>(), outdated,
                "leads, but its view of Kubernetes is older than its predecessor's: only leases are renewed until it catches up"
            );
        }
    }

    /// Adds the checkpoint of this replica to `transaction`.
    pub(super) fn write_checkpoint(&self, slot: WriteSlot, transaction: &mut Transaction) {
        let reached = self.context.checkpoint.now().value();
        transaction.checkpoint = self.planner.checkpoint(transaction, slot.number, slot.after, reached);
    }
}
