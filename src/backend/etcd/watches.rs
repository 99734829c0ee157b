//! One watch stream shared by many prefixes. Detects when the stream is dead.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::time::{Instant, sleep_until};

use super::connection::{Call, Connection, RETIRED};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::requests::{decode, end_of};
use crate::model::{Key, KeyValue, Prefix, Revision};
use crate::telemetry::Outcome;

/// How long a stream may be silent before a sign of life is requested.
const ASK: Duration = Duration::from_secs(10);
/// Time-out for the sign of life.
const ANSWER: Duration = Duration::from_secs(5);

/// Changes of some keys.
pub(super) struct Message {
    pub(super) cluster_id: u64,
    /// The member's revision when it sent the message.
    pub(super) revision: Revision,
    /// Key, new state (`None` if deleted) and revision of each change. Empty when a watch begins.
    pub(super) changes: Vec<(Key, Option<KeyValue>, Revision)>,
}

/// An active watch.
struct Watch {
    prefix: Prefix,
    /// The first revision whose changes have not been returned completely.
    from: Revision,
}

enum Command {
    Create { id: i64, prefix: Prefix, from: Revision },
    Cancel { id: i64 },
}

enum Event {
    Answer(std::result::Result<Option<WatchResponse>, etcd_client::Error>),
    /// There is room for a command (true), or the stream has ended (false).
    Room(bool),
    Silence,
    Retired,
}

struct Open {
    /// The index of the stream's endpoint.
    index: usize,
    endpoint: Arc<Endpoint>,
    sender: WatchRequestSender,
    answers: WatchResponseStream,
}

pub(super) struct Watches {
    connection: Connection,
    /// A prefix that the user may certainly watch.
    essential: Prefix,
    stream: Option<Open>,
    /// The client chooses the watch ids, so that answers need no matching. No id is used twice, so that late messages
    /// of a cancelled watch are recognizable.
    last_id: i64,
    active: HashMap<i64, Watch>,
    ids: HashMap<Prefix, i64>,
    /// Commands that are not sent yet. etcd stops reading when the client does not read its answers, so sending and
    /// receiving must run concurrently.
    commands: VecDeque<Command>,
    last_received: Instant,
    probed_at: Option<Instant>,
}

impl Watches {
    pub(super) fn new(connection: &Connection, essential: &Prefix) -> Self {
        Self {
            connection: connection.clone(),
            essential: essential.clone(),
            stream: None,
            last_id: 0,
            active: HashMap::new(),
            ids: HashMap::new(),
            commands: VecDeque::new(),
            last_received: Instant::now(),
            probed_at: None,
        }
    }

    pub(super) fn has(&self, prefix: &Prefix) -> bool {
        self.ids.contains_key(prefix)
    }

    /// Watches `prefix` from revision `from` on. Replaces an earlier watch of the same prefix.
    pub(super) async fn add(&mut self, prefix: Prefix, from: Revision) -> Result<()> {
        self.cancel(&prefix);
        self.last_id += 1;
        let id = self.last_id;
        if self.stream.is_none() {
            self.stream = Some(self.open(id, &prefix, from).await?);
            self.last_received = Instant::now();
        } else {
            let prefix = prefix.clone();
            self.commands.push_back(Command::Create { id, prefix, from });
        }
        let watch = Watch {
            prefix: prefix.clone(),
            from,
        };
        self.active.insert(id, watch);
        self.ids.insert(prefix, id);
        Ok(())
    }

    /// The watched prefixes, each with the revision from which another stream continues.
    pub(super) fn positions(&self) -> Vec<(Prefix, Revision)> {
        let watches = self.active.values();
        watches.map(|watch| (watch.prefix.clone(), watch.from)).collect()
    }

    /// Cancels the watch of `prefix`, if there is one.
    pub(super) fn cancel(&mut self, prefix: &Prefix) {
        if let Some(id) = self.ids.remove(prefix) {
            self.active.remove(&id);
            self.commands.push_back(Command::Cancel { id });
        }
    }

    async fn open(&self, id: i64, prefix: &Prefix, from: Revision) -> Result<Open> {
        let (index, endpoint) = self.connection.endpoint(0);
        let kind = Call {
            name: "watch",
            attempt_timeout: self.connection.timeouts().request,
            refused: |_| false,
            hedge: None,
        };
        let open = |endpoint: &Endpoint| {
            let mut client = endpoint.watch.clone();
            let options = options(id, prefix, from);
            async move { client.watch(prefix.as_str(), Some(options)).await }
        };
        let opened = self
            .connection
            .attempt(&kind, &endpoint, kind.attempt_timeout, open)
            .await;
        if opened.as_ref().is_err_and(Error::is_connection) {
            self.connection.avoid(index);
        }
        let (sender, answers) = opened?.split();
        Ok(Open {
            index,
            endpoint,
            sender,
            answers,
        })
    }

    /// Returns the next changes. An error means that the stream is no longer usable. Waits forever while there is no
    /// stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Message> {
        loop {
            let Some(stream) = &mut self.stream else {
                return std::future::pending().await;
            };
            let silence = self
                .probed_at
                .map_or(self.last_received + ASK, |probed_at| probed_at + ANSWER);
            let event = tokio::select! {
                biased;
                answer = stream.answers.message() => Event::Answer(answer),
                room = stream.sender.0.reserve(), if !self.commands.is_empty() => Event::Room(room.is_ok()),
                () = stream.endpoint.retired.cancelled() => Event::Retired,
                () = sleep_until(silence) => Event::Silence,
            };
            let (index, endpoint) = (stream.index, stream.endpoint.clone());
            match event {
                Event::Answer(Ok(Some(answer))) => {
                    self.last_received = Instant::now();
                    self.probed_at = None;
                    endpoint.record_receipt();
                    if let Some(header) = answer.header() {
                        let accepted = self.connection.accept(&endpoint, header.cluster_id());
                        accepted.map_err(|error| self.lost(index, &endpoint, error))?;
                    }
                    if let Some(message) = self.read(answer)? {
                        return Ok(message);
                    }
                }
                Event::Answer(Err(error)) => {
                    let error = Error::sort("watch", &endpoint.url, &error);
                    return Err(self.lost(index, &endpoint, error));
                }
                Event::Answer(Ok(None)) | Event::Room(false) => {
                    let error = Error::unreachable(&endpoint.url, "the watch stream ended");
                    return Err(self.lost(index, &endpoint, error));
                }
                Event::Retired => {
                    let error = Error::unreachable(&endpoint.url, RETIRED);
                    return Err(self.lost(index, &endpoint, error));
                }
                Event::Room(true) => {
                    // No other task sends on this stream, so the room is still there. If the stream ended, its answers
                    // contain the reason.
                    if let Some(command) = self.commands.front() {
                        let _ = send(&mut stream.sender, command).await;
                    }
                    // Removed only after sending: this future may be dropped at every await, and a lost command would
                    // leave a prefix unwatched.
                    self.commands.pop_front();
                }
                Event::Silence if self.probed_at.is_none() => {
                    // The sign of life is the confirmation of one more watch. A progress request would not work: etcd
                    // does not answer it for watches whose start revision has not been reached, which is the case while
                    // no key changes. A full queue means that the stream is not being read, so the answer will be
                    // missing too.
                    if !self.ids.is_empty() && stream.sender.0.capacity() > 0 {
                        self.last_id += 1;
                        let id = self.last_id;
                        let options = WatchOptions::new().with_watch_id(id);
                        let _ = stream.sender.watch(self.essential.as_str(), Some(options)).await;
                        self.commands.push_back(Command::Cancel { id });
                    }
                    self.probed_at = Some(Instant::now());
                }
                Event::Silence => {
                    self.connection
                        .count("watch", Outcome::Timeout, self.last_received.elapsed());
                    let error = Error::Timeout {
                        endpoints: endpoint.url.clone(),
                        call: "watch",
                        after: ANSWER,
                    };
                    return Err(self.lost(index, &endpoint, error));
                }
            }
        }
    }

    fn lost(&self, index: usize, endpoint: &Endpoint, error: Error) -> Error {
        self.connection.record_outcome(endpoint, Some(&error));
        if error.is_connection() {
            self.connection.avoid(index);
        }
        error
    }

    /// Extracts the changes of an answer; `None` for late messages of cancelled watches.
    fn read(&mut self, mut answer: WatchResponse) -> Result<Option<Message>> {
        let id = answer.watch_id();
        let watch = self.active.get_mut(&id);
        let active = watch.is_some();
        if answer.canceled() {
            // etcd reports a refused creation under no id or under another one. Only the client's own cancellations are
            // expected.
            let ours = id > 0 && id <= self.last_id && !active && answer.compact_revision() == 0;
            return if ours { Ok(None) } else { Err(refusal(&answer)) };
        }
        let header = answer
            .take_header()
            .ok_or_else(|| Error::malformed("watch", "no header"))?;
        let events = std::mem::take(&mut answer.0.events);
        if !active && !events.is_empty() {
            return Ok(None);
        }
        let last = events.last().and_then(|event| event.kv.as_ref());
        if let (Some(watch), Some(last)) = (watch, last) {
            // Only a fragment may end within a revision.
            watch.from = last.mod_revision + i64::from(!answer.0.fragment);
        }
        Ok(Some(Message {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
            changes: events.into_iter().filter_map(change).collect(),
        }))
    }
}

fn refusal(answer: &WatchResponse) -> Error {
    let reason = answer.cancel_reason();
    if let Some(error) = Error::of_stream(reason) {
        return error;
    }
    let message = match answer.compact_revision() {
        0 => format!("etcd cancelled the watch: {reason}"),
        compacted => format!("the history up to revision {compacted} was compacted away"),
    };
    Error::Other {
        call: "watch",
        code: 11,
        message,
    }
}

fn options(id: i64, prefix: &Prefix, from: Revision) -> WatchOptions {
    WatchOptions::new()
        .with_range(end_of(prefix))
        .with_start_revision(from)
        .with_watch_id(id)
        .with_fragment()
}

async fn send(sender: &mut WatchRequestSender, command: &Command) -> std::result::Result<(), etcd_client::Error> {
    match command {
        Command::Create { id, prefix, from } => sender.watch(prefix.as_str(), Some(options(*id, prefix, *from))).await,
        Command::Cancel { id } => sender.cancel(*id).await,
    }
}

fn change(event: PbEvent) -> Option<(Key, Option<KeyValue>, Revision)> {
    let put = event.r#type == 0;
    let (key, held) = decode(event.kv?)?;
    let revision = held.mod_revision;
    Some((key, put.then_some(held), revision))
}
