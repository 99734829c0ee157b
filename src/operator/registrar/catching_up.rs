//! The time between coming to lead and writing: what the predecessor had heard of Kubernetes must have been heard here
//! too, or its work would be undone and done again.

use std::time::{Duration, Instant};

use super::{Done, Registrar};
use crate::plan::{Fence, Heard, Held, Transaction};

/// Before the note is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a replica that came to lead has to hear before it writes.
#[derive(Debug)]
pub(super) struct CatchingUp {
    /// The proof it leads by.
    fence: Fence,
    /// What the predecessor had heard, and when that was read; none until then.
    note: Option<(Heard, Instant)>,
    /// Whether it was said that this takes a while.
    told: bool,
}

impl Registrar {
    /// This replica leads by a new proof: nobody can have written since it got it. So what the note says now is all that
    /// any predecessor went by.
    pub(super) fn catch_up(&mut self, fence: Fence) {
        let (connection, key) = (self.connection.clone(), self.ledger.note_key());
        let won = fence.clone();
        self.catching_up = Some(CatchingUp {
            fence,
            note: None,
            told: false,
        });
        self.tasks.spawn(async move {
            loop {
                if let Ok((note, _)) = connection.get(&key).await {
                    let (fence, at) = (won, Instant::now());
                    return Done::NoteRead { fence, note, at };
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// The predecessor's note has been read.
    pub(super) fn note_read(&mut self, fence: &Fence, note: Option<Held>, at: Instant) {
        let Some(catching_up) = self.catching_up.as_mut().filter(|one| one.fence == *fence) else {
            return;
        };
        let heard = note.and_then(|note| Heard::read(&note.value)).unwrap_or_default();
        catching_up.note = Some((heard, at));
        self.has_caught_up();
    }

    /// Looks whether as much has been heard as is needed. An outdated view never has: its watches say nothing, and what
    /// they miss nobody knows.
    pub(super) fn has_caught_up(&mut self) {
        let Some(CatchingUp {
            note: Some((needed, since)),
            told,
            ..
        }) = &mut self.catching_up
        else {
            return;
        };
        let lacks = self.kubernetes.progress.lacks(needed, *since);
        let outdated = self.kubernetes.outdated.is_some();
        if lacks.is_empty() && !outdated {
            self.catching_up = None;
        } else if !std::mem::replace(told, true) {
            tracing::warn!(
                registry = %self.name, ?lacks, outdated,
                "leads, and has heard less of Kubernetes than its predecessor: leases are renewed, nothing is written until it has"
            );
        }
    }

    /// Leaves word with `transaction` of how far this replica has heard.
    pub(super) fn leave_note(&mut self, fence: &Fence, transaction: &mut Transaction) {
        self.notes += 1;
        let heard = self.context.hearing.now().value(fence, self.notes);
        transaction.note = self.ledger.note(transaction, heard);
    }
}
