//! One watch stream that many scopes share, and that is known to be alive.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::time::{Instant, sleep_until};

use super::connection::{Call, Connection, GIVEN_UP};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::requests::{decode, end_of};
use crate::plan::{Key, KeyValue, Prefix, Revision};
use crate::telemetry::Outcome;

/// A silent stream is asked for a sign of life this often.
const ASK: Duration = Duration::from_secs(10);
/// And has to give it within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// Changes of some keys.
pub(super) struct Message {
    pub(super) cluster_id: u64,
    /// The member's revision when the message was made.
    pub(super) revision: Revision,
    /// Key, what it holds now, and when it changed; none when a watch begins.
    pub(super) changes: Vec<(Key, Option<KeyValue>, Revision)>,
}

enum Command {
    Create { id: i64, scope: Prefix, from: Revision },
    Cancel { id: i64 },
}

enum Event {
    Answer(std::result::Result<Option<WatchResponse>, etcd_client::Error>),
    /// There is room for a command, unless the stream has ended.
    Room(bool),
    Silence,
    GivenUp,
}

struct Open {
    /// Which endpoint it is on.
    index: usize,
    endpoint: Arc<Endpoint>,
    sender: WatchRequestSender,
    answers: WatchResponseStream,
}

pub(super) struct Watches {
    connection: Connection,
    /// What may surely be watched.
    essential: Prefix,
    stream: Option<Open>,
    /// Watch ids are given by us, so that answers need no matching. Never used twice: late messages of a cancelled
    /// watch are thus known.
    last_id: i64,
    active: HashMap<i64, Prefix>,
    ids: HashMap<Prefix, i64>,
    /// Not yet sent: etcd stops reading when we do not read its answers, so both have to go on at the same time.
    commands: VecDeque<Command>,
    heard: Instant,
    asked: Option<Instant>,
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
            heard: Instant::now(),
            asked: None,
        }
    }

    pub(super) fn has(&self, scope: &Prefix) -> bool {
        self.ids.contains_key(scope)
    }

    /// Watches `scope` from revision `from` on, instead of what was watched of it before.
    pub(super) async fn add(&mut self, scope: Prefix, from: Revision) -> Result<()> {
        self.cancel(&scope);
        self.last_id += 1;
        let id = self.last_id;
        if self.stream.is_none() {
            self.stream = Some(self.open(id, &scope, from).await?);
            self.heard = Instant::now();
        } else {
            let scope = scope.clone();
            self.commands.push_back(Command::Create { id, scope, from });
        }
        self.active.insert(id, scope.clone());
        self.ids.insert(scope, id);
        Ok(())
    }

    /// Ends the watches of all scopes but those that `keep` names.
    pub(super) fn retain(&mut self, keep: impl Fn(&Prefix) -> bool) {
        let unwanted: Vec<_> = self.ids.keys().filter(|scope| !keep(scope)).cloned().collect();
        for scope in unwanted {
            self.cancel(&scope);
        }
    }

    fn cancel(&mut self, scope: &Prefix) {
        if let Some(id) = self.ids.remove(scope) {
            self.active.remove(&id);
            self.commands.push_back(Command::Cancel { id });
        }
    }

    async fn open(&self, id: i64, scope: &Prefix, from: Revision) -> Result<Open> {
        let (index, endpoint) = self.connection.endpoint(0);
        let kind = Call {
            name: "watch",
            patience: self.connection.timeouts().request,
            refused: |_| false,
            hedged: false,
        };
        let open = |endpoint: &Endpoint| {
            let mut client = endpoint.watch.clone();
            let options = options(id, scope, from);
            async move { client.watch(scope.prefix(), Some(options)).await }
        };
        let opened = self.connection.attempt(&kind, &endpoint, kind.patience, open).await;
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

    /// The next changes. An error means that the stream is of no use any more. Without a watch there is no next. May be
    /// dropped at any time without losing anything.
    pub(super) async fn next(&mut self) -> Result<Message> {
        loop {
            let Some(stream) = &mut self.stream else {
                return std::future::pending().await;
            };
            let silence = self.asked.map_or(self.heard + ASK, |asked| asked + ANSWER);
            let event = tokio::select! {
                biased;
                answer = stream.answers.message() => Event::Answer(answer),
                room = stream.sender.0.reserve(), if !self.commands.is_empty() => Event::Room(room.is_ok()),
                () = stream.endpoint.given_up.cancelled() => Event::GivenUp,
                () = sleep_until(silence) => Event::Silence,
            };
            let (index, endpoint) = (stream.index, stream.endpoint.clone());
            match event {
                Event::Answer(Ok(Some(answer))) => {
                    self.heard = Instant::now();
                    self.asked = None;
                    endpoint.hears();
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
                Event::GivenUp => {
                    let error = Error::unreachable(&endpoint.url, GIVEN_UP);
                    return Err(self.lost(index, &endpoint, error));
                }
                Event::Room(true) => {
                    // Nobody else sends here, so the room is still there. If the stream ended, its answers say why.
                    if let Some(command) = self.commands.front() {
                        let _ = send(&mut stream.sender, command).await;
                    }
                    // Only now: this future may be dropped at every await, and a lost command is a scope unwatched.
                    self.commands.pop_front();
                }
                Event::Silence if self.asked.is_none() => {
                    // The sign of life is the confirmation of one more watch. Progress is not what to ask for: etcd
                    // does not tell it to watches from a revision that has not come yet, that is while nothing happens.
                    // A full queue means that the stream is not read: that shows in the missing answer, too.
                    if !self.ids.is_empty() && stream.sender.0.capacity() > 0 {
                        self.last_id += 1;
                        let id = self.last_id;
                        let options = WatchOptions::new().with_watch_id(id);
                        let _ = stream.sender.watch(self.essential.prefix(), Some(options)).await;
                        self.commands.push_back(Command::Cancel { id });
                    }
                    self.asked = Some(Instant::now());
                }
                Event::Silence => {
                    self.connection.count("watch", Outcome::Timeout, self.heard.elapsed());
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
        self.connection.met(endpoint, Some(&error));
        if error.is_connection() {
            self.connection.avoid(index);
        }
        error
    }

    /// What an answer says that matters; none for what cancelled watches still had to say.
    fn read(&self, mut answer: WatchResponse) -> Result<Option<Message>> {
        let id = answer.watch_id();
        let active = self.active.contains_key(&id);
        if answer.canceled() {
            // A refused creation is reported under no id or another one: only our own cancellations are expected.
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

fn options(id: i64, scope: &Prefix, from: Revision) -> WatchOptions {
    WatchOptions::new()
        .with_range(end_of(scope))
        .with_start_revision(from)
        .with_watch_id(id)
        .with_fragment()
}

async fn send(sender: &mut WatchRequestSender, command: &Command) -> std::result::Result<(), etcd_client::Error> {
    match command {
        Command::Create { id, scope, from } => sender.watch(scope.prefix(), Some(options(*id, scope, *from))).await,
        Command::Cancel { id } => sender.cancel(*id).await,
    }
}

fn change(event: PbEvent) -> Option<(Key, Option<KeyValue>, Revision)> {
    let put = event.r#type == 0;
    let (key, held) = decode(event.kv?)?;
    let revision = held.mod_revision;
    Some((key, put.then_some(held), revision))
}
