//! The time between coming to lead and writing: what the predecessor had heard of Kubernetes must have been heard here
//! too, or its work would be undone and done again.

use std::time::{Duration, Instant};

use super::write_slots::WriteSlot;
use super::{Done, Outdated, RegistryWorker};
use crate::controller::bypass::BypassGuard;
use crate::etcd::{self, Snapshot};
use crate::plan::{Checkpoint, Fence, Freshness, Key, KeyValue, Transaction};

/// What a replica that came to lead has to hear before it writes.
#[derive(Debug)]
pub(super) struct CatchingUp {
    /// The proof it leads by.
    fence: Fence,
    /// What predecessors had heard, and when that was read; none until then.
    notes: Option<(Checkpoint, Instant)>,
    /// Whether some of them could not be read: then as much has to be heard as anybody can have heard.
    unread: bool,
    /// Whether it was said that this takes a while.
    told: bool,
    /// It waits for all that has been heard.
    _bypass: BypassGuard,
}

impl RegistryWorker {
    /// This replica leads by a new proof: nobody can have written since it got it. So what the notes say now is all that
    /// any predecessor went by.
    pub(super) fn catch_up(&mut self, fence: Fence) {
        let won = fence.clone();
        self.catching_up = Some(CatchingUp {
            fence,
            notes: None,
            unread: false,
            told: false,
            _bypass: self.context.bypass.suspend(),
        });
        self.read_notes(won, Duration::ZERO);
    }

    /// Asks for the notes of predecessors after a pause.
    fn read_notes(&mut self, fence: Fence, pause: Duration) {
        let (connection, notes) = (self.connection.clone(), self.planner.notes());
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let read = connection.range(&notes, None).await;
            let (notes, at) = (read.map(|Snapshot { entries, .. }| entries), Instant::now());
            Done::NotesRead { fence, notes, at }
        });
    }

    /// The notes of predecessors have been read, or could not be: until they are, nothing can be written, which is said like
    /// any other failure to write.
    pub(super) fn notes_read(&mut self, fence: &Fence, notes: etcd::Result<Vec<(Key, KeyValue)>>, at: Instant) {
        if self.catching_up.as_ref().is_none_or(|one| one.fence != *fence) {
            return;
        }
        let notes = match notes {
            Ok(notes) => notes,
            Err(error) => {
                let pause = self
                    .writing
                    .failed("reading the notes of former leaders", &self.name, &error);
                return self.read_notes(fence.clone(), pause);
            }
        };
        self.writing.succeeded();
        let Some(catching_up) = self.catching_up.as_mut() else {
            return;
        };
        let mut heard = Checkpoint::default();
        for (key, note) in &notes {
            if let Some(note) = Checkpoint::read(&note.value) {
                heard.merge(note);
                continue;
            }
            catching_up.unread = true;
            tracing::warn!(
                registry = %self.name, %key,
                "a note of how far a leader had heard cannot be read, as if a newer release had written it: nothing is \
                 written until all is heard that it can be about"
            );
        }
        let watched = Freshness::new(self.context.hearing.watch_scope().streams());
        let beyond = watched.beyond(&heard);
        if !beyond.is_empty() {
            let beyond: Vec<_> = beyond.iter().map(ToString::to_string).collect();
            tracing::warn!(
                registry = %self.name, ?beyond,
                "predecessors watched namespaces that are not watched here: what is left of theirs is removed, as far as \
                 spec.guard does not hold it"
            );
        }
        catching_up.notes = Some((heard, at));
        self.has_caught_up();
    }

    /// Looks whether as much has been heard as is needed. An outdated view never has: its watches say nothing, and what
    /// they miss nobody knows. Where only some namespaces may not be looked into, as much has to be heard of them as the
    /// notes say, and the others are served.
    pub(super) fn has_caught_up(&mut self) {
        let Some(CatchingUp {
            notes: Some((needed, since)),
            unread,
            told,
            ..
        }) = &mut self.catching_up
        else {
            return;
        };
        if *unread {
            let Some(presents) = self.kubernetes.progress.presents(*since) else {
                return;
            };
            needed.merge(presents);
            *unread = false;
        }
        let lacks = self.kubernetes.progress.lacks(needed, *since);
        let outdated = self.kubernetes.outdated.as_ref().is_some_and(Outdated::is_general);
        if lacks.is_empty() && !outdated {
            self.catching_up = None;
        } else if !std::mem::replace(told, true) {
            tracing::warn!(
                registry = %self.name, lacks = ?lacks.iter().map(ToString::to_string).collect::<Vec<_>>(), outdated,
                "leads, and has heard less of Kubernetes than its predecessor: leases are renewed, nothing is written until it has"
            );
        }
    }

    /// Leaves word with `transaction` of how far this replica has heard.
    pub(super) fn leave_note(&self, track: WriteSlot, transaction: &mut Transaction) {
        let heard = self.context.hearing.now().value();
        transaction.note = self.planner.note(transaction, track.number, track.after, heard);
    }
}
