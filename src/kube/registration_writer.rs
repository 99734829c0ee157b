//! Writes the registrations that the operator keeps for annotated Services. Keeps only the latest wanted change of each
//! registration, and reads the object before it writes: nothing is written that the object already is.

mod requests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::requests::{Failure, Requests};
use super::events::{About, Events, Notice};
use crate::api::ServiceRegistrationSpec;
use crate::model::{Backoff, Counts, FairQueue, LeaderFlag, RegistrationRef, fnv64};
use crate::telemetry::Calls;

/// Writes in flight at a time, and those of one namespace.
const IN_FLIGHT: usize = 4;
const OF_ONE: usize = 2;
/// Pauses before a failed write is repeated, and before a change is repeated that another client has undone.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// A change that is undone later than this after it was made is repeated without a pause.
const QUIET: Duration = Duration::from_mins(10);

/// A change to a registration.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistrationChange {
    /// Create it, or give it this spec.
    Apply(Box<ServiceRegistrationSpec>),
    /// Delete it, unless its Service asks for a registration in this Registry. If it is to move to another Registry, `next`
    /// is its spec there: nothing is deleted that the API server would then refuse to create.
    DeleteFrom {
        registry: String,
        next: Option<Box<ServiceRegistrationSpec>>,
    },
}

/// A change, and for which Service it is made.
#[derive(Clone, Debug)]
pub struct RegistrationWrite {
    /// The namespace and the name of the registration, which are those of its Service.
    pub registration: RegistrationRef,
    /// `metadata.uid` of the Service.
    pub service_uid: String,
    /// The annotations of the Service for which the change is made. The change is dropped if the Service has others.
    pub annotations: BTreeMap<String, String>,
    pub change: RegistrationChange,
    /// The change is dropped if this replica no longer leads the Registry.
    pub leader: LeaderFlag,
}

impl RegistrationWrite {
    fn is_same(&self, other: &Self) -> bool {
        (&self.service_uid, &self.change) == (&other.service_uid, &other.change)
    }
}

#[derive(Debug)]
pub enum WriterCommand {
    Wanted(RegistrationWrite),
    /// There is nothing left to do about this registration.
    Settled(RegistrationRef),
}

struct Entry {
    wanted: Option<RegistrationWrite>,
    /// When the wanted change is due, while it waits.
    due: Option<Instant>,
    is_writing: bool,
    /// Whether a command has arrived since the write in flight began.
    is_revised: bool,
    /// Whether it is in the queue of changes that are due.
    is_ready: bool,
    /// The last change that was made, and when.
    made: Option<(RegistrationWrite, Instant)>,
    backoff: Backoff,
    /// Hash of the last refusal that was reported.
    refused: Option<u64>,
}

/// The writer of the registrations of annotated Services.
pub struct RegistrationWriter {
    client: Client,
    calls: Calls,
    events: Events,
    entries: HashMap<RegistrationRef, Entry>,
    waiting: BTreeSet<(Instant, RegistrationRef)>,
    ready: FairQueue<RegistrationRef>,
    /// Number of writes in flight of each namespace.
    writing: Counts<Arc<str>>,
    writes: JoinSet<(RegistrationWrite, Result<(), Failure>)>,
    /// Whether a missing right was logged.
    lack_logged: bool,
}

impl RegistrationWriter {
    pub fn new(client: Client, calls: Calls, events: Events) -> Self {
        Self {
            client,
            calls,
            events,
            entries: HashMap::new(),
            waiting: BTreeSet::new(),
            ready: FairQueue::default(),
            writing: Counts::default(),
            writes: JoinSet::new(),
            lack_logged: false,
        }
    }

    /// Makes the changes that `commands` ask for, until the channel closes or `shutdown`.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<WriterCommand>, shutdown: CancellationToken) {
        let mut clean_at = Instant::now() + QUIET;
        loop {
            let now = Instant::now();
            if now >= clean_at {
                clean_at = now + QUIET;
                self.forget_settled(now);
            }
            self.write(now);
            let wake = self.waiting.first().map_or(clean_at, |(due, _)| clean_at.min(*due));
            tokio::select! {
                () = shutdown.cancelled() => return,
                command = commands.recv() => match command {
                    Some(command) => self.take(command, Instant::now()),
                    None => return,
                },
                Some(written) = self.writes.join_next() => match written {
                    Ok((write, result)) => self.written(&write, result, Instant::now()),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take(&mut self, command: WriterCommand, now: Instant) {
        let write = match command {
            WriterCommand::Wanted(write) => write,
            WriterCommand::Settled(reference) => {
                if let Some(entry) = self.entries.get_mut(&reference) {
                    entry.is_revised = true;
                    entry.wanted = None;
                    entry.refused = None;
                }
                return;
            }
        };
        let reference = write.registration.clone();
        let entry = self.entries.entry(reference.clone()).or_insert_with(|| Entry {
            wanted: None,
            due: None,
            is_writing: false,
            is_revised: false,
            is_ready: false,
            made: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            refused: None,
        });
        entry.is_revised = true;
        if entry.wanted.as_ref().is_some_and(|wanted| wanted.is_same(&write)) {
            entry.wanted = Some(write);
            return;
        }
        let is_recent = |(made, at): &(RegistrationWrite, Instant)| made.is_same(&write) && now < *at + QUIET;
        let due = if entry.made.as_ref().is_some_and(is_recent) {
            now + entry.backoff.next_pause()
        } else {
            entry.backoff.reset();
            now
        };
        entry.wanted = Some(write);
        self.schedule(&reference, due);
    }

    fn schedule(&mut self, reference: &RegistrationRef, due: Instant) {
        let Some(entry) = self.entries.get_mut(reference) else {
            return;
        };
        if let Some(former) = entry.due.replace(due) {
            self.waiting.remove(&(former, reference.clone()));
        }
        self.waiting.insert((due, reference.clone()));
    }

    fn write(&mut self, now: Instant) {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, reference)) = self.waiting.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&reference) else {
                continue;
            };
            entry.due = None;
            if !std::mem::replace(&mut entry.is_ready, true) {
                let namespace = reference.namespace.clone();
                self.ready.push(&namespace, reference);
            }
        }
        while self.writes.len() < IN_FLIGHT {
            let writing = &self.writing;
            let may = |namespace: &str, _| writing.of(namespace) < OF_ONE;
            let Some(reference) = self.ready.pop_of(may) else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&reference) else {
                continue;
            };
            entry.is_ready = false;
            // When the write in flight ends, `written` schedules the next one. One that is due later has its place among
            // those that wait.
            if entry.is_writing || entry.due.is_some() {
                continue;
            }
            let Some(write) = entry.wanted.clone() else { continue };
            if !write.leader.is_set() {
                entry.wanted = None;
                continue;
            }
            entry.is_writing = true;
            entry.is_revised = false;
            self.writing.add(reference.namespace.clone());
            let requests = Requests {
                client: self.client.clone(),
                calls: self.calls.clone(),
            };
            self.writes.spawn(async move {
                let result = requests.make(&write).await;
                (write, result)
            });
        }
    }

    fn written(&mut self, write: &RegistrationWrite, result: Result<(), Failure>, now: Instant) {
        let reference = &write.registration;
        self.writing.remove(&reference.namespace);
        let refusal = match &result {
            Err(Failure::Refused { code, message }) => Some((*code, message.clone())),
            _ => None,
        };
        let Some(entry) = self.entries.get_mut(reference) else {
            return;
        };
        entry.is_writing = false;
        let is_current = !entry.is_revised && entry.wanted.as_ref().is_some_and(|wanted| wanted.is_same(write));
        let pause = match result {
            Ok(()) => {
                entry.made = Some((write.clone(), now));
                entry.refused = None;
                entry.wanted.take_if(|_| is_current);
                Duration::ZERO
            }
            Err(failure) => {
                if let Failure::Failed(cause) = failure {
                    tracing::warn!(registration = %reference, cause, "cannot write this registration; trying again");
                }
                entry.backoff.next_pause()
            }
        };
        // A newer command may have chosen a time.
        if entry.wanted.is_some() && entry.due.is_none() {
            self.schedule(reference, now + if is_current { pause } else { Duration::ZERO });
        }
        if let Some((code, message)) = refusal.filter(|_| is_current) {
            self.refused(write, code, &message);
        }
    }

    /// Reports that the API server refuses a change, once while the reason stays the same.
    fn refused(&mut self, write: &RegistrationWrite, code: u16, message: &str) {
        // An admission webhook refuses with the same code, but in other words.
        let is_right_missing = code == 403 && message.contains("User \"") && message.contains("\" cannot ");
        if is_right_missing && !std::mem::replace(&mut self.lack_logged, true) {
            tracing::warn!(
                message,
                "cannot write the registrations of annotated Services: grant the operator create, update and delete on \
                 serviceregistrations, as the chart does, or start it with --service-annotations=false"
            );
        }
        let hash = fnv64(&[message]);
        let Some(entry) = self.entries.get_mut(&write.registration) else {
            return;
        };
        if entry.refused.replace(hash) == Some(hash) {
            return;
        }
        self.events.publish(Notice {
            about: About::Service(write.registration.clone()),
            uid: write.service_uid.as_str().into(),
            is_warning: true,
            reason: "RegistrationRefused",
            note: format!("The kube-apiserver refuses the registration that the annotations ask for: {message}"),
            occurrence: format!("{hash:016x}"),
        });
    }

    /// Drops what no pause depends on any more.
    fn forget_settled(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let is_recent = entry.made.as_ref().is_some_and(|(_, at)| now < *at + QUIET);
            entry.wanted.is_some() || entry.is_writing || entry.due.is_some() || is_recent
        });
    }
}

#[cfg(test)]
mod tests;
