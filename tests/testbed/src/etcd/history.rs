//! What happened under a prefix, as data.

use std::{
    fmt::{self, Display},
    time::{Duration, Instant},
};

use etcd_client::{Client, EventType, WatchOptions, WatchResponse};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::EtcdCluster;
use crate::{
    error::{Error, Result},
    wait::until,
};

/// How long etcd may take to say that a watch is complete.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two questions for the watch's progress, and two attempts to watch again.
const ASK: Duration = Duration::from_millis(25);

/// One thing that happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that did it; events of one transaction share it.
    pub revision: i64,
    /// The key; bytes that are not UTF-8 are replaced, as in values.
    pub key: String,
    /// What happened.
    pub kind: Kind,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was written, possibly with the value it had.
    Put {
        /// Its value since.
        value: String,
        /// The lease it is attached to since; 0 for none.
        lease: i64,
    },
    /// It was deleted, or its lease ended.
    Delete,
}

impl Display for Event {
    /// `put KEY VALUE` or `delete KEY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Put { value, .. } => write!(f, "put {} {value}", self.key),
            Kind::Delete => write!(f, "delete {}", self.key),
        }
    }
}

/// Every event under a prefix from a revision on, collected in the background until this value is dropped. It survives
/// restarts of etcd: the watch is resumed after the last event, so nothing is missed or seen twice.
pub struct History {
    prefix: String,
    seen: watch::Receiver<Seen>,
    ask: mpsc::Sender<()>,
    client: Client,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    /// When each of them arrived here.
    arrivals: Vec<Instant>,
    /// Every event up to this revision is in `events`.
    complete: i64,
    /// Why it can never be complete.
    hole: Option<String>,
}

impl History {
    /// Watches a prefix (all keys when empty) from a revision on, that one included; 0 for everything after this call.
    pub async fn watch(cluster: &EtcdCluster, prefix: &str, from_revision: i64) -> Result<Self> {
        let from = if from_revision > 0 {
            from_revision
        } else {
            cluster.revision().await? + 1
        };
        let (seen, receiver) = watch::channel(Seen {
            complete: from - 1,
            ..Seen::default()
        });
        let (ask, asked) = mpsc::channel(1);
        let watcher = Watcher {
            client: cluster.patient_client().await?,
            prefix: prefix.to_owned(),
            seen,
            asked,
        };
        let task = tokio::spawn(watcher.run());
        Ok(Self {
            prefix: prefix.to_owned(),
            seen: receiver,
            ask,
            client: cluster.client().await?,
            task,
        })
    }

    /// What has been seen so far.
    pub fn events(&self) -> Vec<Event> {
        self.seen.borrow().events.clone()
    }

    /// What has been seen so far, each with the moment at which it arrived in this process.
    pub fn arrivals(&self) -> Vec<(Instant, Event)> {
        let seen = self.seen.borrow();
        seen.arrivals.iter().copied().zip(seen.events.iter().cloned()).collect()
    }

    /// Waits until what was seen satisfies `enough`, and returns it.
    pub async fn wait_for(&self, enough: impl Fn(&[Event]) -> bool, deadline: Duration) -> Result<Vec<Event>> {
        let mut seen = self.seen.clone();
        let found = timeout(
            deadline,
            seen.wait_for(|seen| seen.hole.is_some() || enough(&seen.events)),
        )
        .await;
        let Ok(found) = found else {
            return Err(Error::Deadline {
                what: format!("events under {:?}", self.prefix),
                waited: deadline,
                last: listed(&self.events()),
            });
        };
        self.whole(&found.expect("the watcher lives as long as this value"))
    }

    /// Everything that has happened up to now: asks etcd for its revision and waits until the watch has come that far, so
    /// that an event which is missing did not happen. Writes nothing.
    pub async fn settled(&self) -> Result<Vec<Event>> {
        // Again and again: the client picks a member at random, and one of them may have died since it was made.
        let now = until("a member to tell the revision", SETTLE, || async {
            let answer = self.client.clone().get("\0", None).await?;
            Ok::<_, etcd_client::Error>(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
        })
        .await?;
        let mut seen = self.seen.clone();
        let asking = async {
            loop {
                // A full queue holds the same question already. etcd does not answer while a watch catches up: ask again.
                let _ = self.ask.try_send(());
                let come_so_far = seen.wait_for(|seen| seen.hole.is_some() || seen.complete >= now);
                if let Ok(seen) = timeout(ASK, come_so_far).await {
                    return self.whole(&seen.expect("the watcher lives as long as this value"));
                }
            }
        };
        timeout(SETTLE, asking).await.unwrap_or_else(|_| {
            Err(Error::Deadline {
                what: format!("the watch of {:?} to reach revision {now}", self.prefix),
                waited: SETTLE,
                last: listed(&self.events()),
            })
        })
    }

    /// Panics unless exactly these events happened up to now, in this order, each as its [`Display`] shows it:
    /// `put KEY VALUE` or `delete KEY`.
    pub async fn assert_exactly(&self, expected: &[&str]) {
        let events = self.settled().await.unwrap_or_else(|error| panic!("{error}"));
        let found: Vec<_> = events.iter().map(Event::to_string).collect();
        assert!(
            found == expected,
            "under {:?} expected exactly\n  {}\nbut there were\n{}",
            self.prefix,
            expected.join("\n  "),
            listed(&events)
        );
    }

    /// Panics unless nothing at all happened up to now.
    pub async fn assert_silent(&self) {
        self.assert_exactly(&[]).await;
    }

    fn whole(&self, seen: &Seen) -> Result<Vec<Event>> {
        match &seen.hole {
            Some(why) => Err(Error::Hole {
                prefix: self.prefix.clone(),
                why: why.clone(),
            }),
            None => Ok(seen.events.clone()),
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    client: Client,
    prefix: String,
    seen: watch::Sender<Seen>,
    asked: mpsc::Receiver<()>,
}

impl Watcher {
    async fn run(mut self) {
        while self.seen.borrow().hole.is_none() {
            // Losing the stream is no event: etcd may be restarting.
            let _ = self.follow().await;
            sleep(ASK).await;
        }
    }

    /// Watches until the stream ends.
    async fn follow(&mut self) -> Result<(), etcd_client::Error> {
        let options = WatchOptions::new().with_start_revision(self.seen.borrow().complete + 1);
        let options = if self.prefix.is_empty() {
            options.with_all_keys()
        } else {
            options.with_prefix()
        };
        let mut stream = self.client.watch(self.prefix.as_str(), Some(options)).await?;
        loop {
            tokio::select! {
                answer = stream.message() => match answer? {
                    Some(answer) if !answer.canceled() => self.take(&answer),
                    Some(answer) => {
                        if answer.compact_revision() > 0 {
                            let why = format!("etcd compacted up to revision {}", answer.compact_revision());
                            self.seen.send_modify(|seen| seen.hole = Some(why));
                        }
                        return Ok(());
                    }
                    None => return Ok(()),
                },
                Some(()) = self.asked.recv() => stream.request_progress().await?,
            }
        }
    }

    fn take(&self, answer: &WatchResponse) {
        let now = Instant::now();
        let events = answer.events().iter().filter_map(read).collect::<Vec<_>>();
        self.seen.send_modify(|seen| {
            if let Some(last) = events.last() {
                // Events of one revision come in one answer, so a watch may resume behind it.
                seen.complete = seen.complete.max(last.revision);
                seen.arrivals.extend(events.iter().map(|_| now));
                seen.events.extend(events);
            } else if !answer.created() {
                // Only an answer to a question for progress says that everything up to its revision was sent.
                let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                seen.complete = seen.complete.max(revision);
            }
        });
    }
}

fn read(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = match event.event_type() {
        EventType::Put => Kind::Put {
            value: text(kv.value()),
            lease: kv.lease(),
        },
        EventType::Delete => Kind::Delete,
    };
    Some(Event {
        revision: kv.mod_revision(),
        key: text(kv.key()),
        kind,
    })
}

fn listed(events: &[Event]) -> String {
    if events.is_empty() {
        return "  (no event)".to_owned();
    }
    let lines: Vec<_> = events
        .iter()
        .map(|event| format!("  at {}: {event}", event.revision))
        .collect();
    lines.join("\n")
}
