//! The client: keeps one connection to one address, and finds out what its end means.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::Event;
use super::peers::Shared;
use super::wire::{HANDSHAKE, Reader, ReplicaState, WireError};
use crate::telemetry::{Outcome, Peer};

/// Time limit for the TCP connect.
const CONNECT: Duration = Duration::from_secs(1);
/// After how much silence a new connection is tried beside the silent one. Together with [`HANDSHAKE`] this makes the 3
/// s after which a process counts as hung. A process that pauses for 2 s has answered by then.
const SILENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts beside a connection that stays silent.
const AGAIN: Duration = Duration::from_secs(1);
/// Pauses between attempts while the address does not answer; the last one repeats. The first attempts after the end of
/// a connection follow quickly, because a dying process may still accept connections for a moment.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

enum Attempt {
    Open(Box<Reader>),
    /// No process listens there.
    Refused,
    /// The connection was made, but the process has sent nothing.
    Silent,
    Failed(String),
}

async fn attempt(address: SocketAddr, shared: &Shared) -> Attempt {
    // A refusal is evidence even without a key.
    let key = shared.key();
    let started = Instant::now();
    let (outcome, attempt) = match timeout(CONNECT, TcpStream::connect(address)).await {
        Err(_) => (
            Outcome::Timeout,
            Attempt::Failed(format!("no answer within {CONNECT:?}")),
        ),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => (Outcome::Refused, Attempt::Refused),
        Ok(Err(error)) => (Outcome::Error, Attempt::Failed(error.to_string())),
        Ok(Ok(stream)) => match key {
            None => (
                Outcome::Error,
                Attempt::Failed("this replica has no peer key".to_owned()),
            ),
            Some(key) => match timeout(HANDSHAKE, Reader::open(stream, &key, &shared.me)).await {
                Err(_) => (Outcome::Timeout, Attempt::Silent),
                Ok(Ok(reader)) => (Outcome::Ok, Attempt::Open(Box::new(reader))),
                Ok(Err(error)) => {
                    if matches!(error, WireError::WrongKey) {
                        shared.report_key_mismatch();
                    }
                    (Outcome::Error, Attempt::Failed(error.to_string()))
                }
            },
        },
    };
    shared
        .calls
        .observe(Peer::Replica, "connect", outcome, started.elapsed());
    attempt
}

/// Keeps a connection to `address` for ever, and reports its events to `shared`.
pub(super) async fn keep(address: SocketAddr, shared: Shared) {
    let mut tries = 0;
    loop {
        let pause = PAUSES[tries.min(PAUSES.len() - 1)];
        tokio::select! {
            () = sleep(pause) => {}
            // With another key, an attempt that failed may succeed.
            () = shared.key_changed(), if pause >= Duration::from_secs(1) => {}
        }
        tries += 1;
        match attempt(address, &shared).await {
            Attempt::Open(reader) => {
                if reader.server.incarnation == shared.me.incarnation {
                    shared.take(
                        address,
                        Event::Failed("the address belongs to this replica itself".to_owned()),
                    );
                    continue;
                }
                tracing::info!(%address, replica = %reader.server.identity, "connected to another replica");
                follow(address, *reader, &shared).await;
                tries = 0;
            }
            Attempt::Refused => shared.take(address, Event::Refused),
            Attempt::Silent => shared.take(
                address,
                Event::Failed(format!(
                    "accepts connections, but did not complete the handshake within {HANDSHAKE:?}"
                )),
            ),
            Attempt::Failed(cause) => shared.take(address, Event::Failed(cause)),
        }
    }
}

/// Reads from a connection until it ends or its address refuses connections.
async fn follow(address: SocketAddr, mut reader: Reader, shared: &Shared) {
    shared.take(address, Event::Opened(reader.server.clone()));
    let mut next_attempt = Instant::now() + SILENCE;
    let mut last_state: Option<ReplicaState> = None;
    loop {
        let other = tokio::select! {
            // Received messages take precedence over the timer: it may be this process that was paused.
            biased;
            message = reader.next() => match message {
                Ok(Some(state)) => {
                    if last_state.as_ref() == Some(&state) {
                        shared.take(address, Event::Beat);
                    } else {
                        shared.take(address, Event::Stated(state.clone()));
                        last_state = Some(state);
                    }
                    next_attempt = Instant::now() + SILENCE;
                    continue;
                }
                Ok(None) => {
                    shared.take(address, Event::Beat);
                    next_attempt = Instant::now() + SILENCE;
                    continue;
                }
                Err(error) => {
                    tracing::info!(%address, replica = %reader.server.identity, %error, "the connection to another replica ended");
                    return;
                }
            },
            other = try_another(next_attempt, address, shared) => other,
        };
        next_attempt = Instant::now() + AGAIN;
        match other {
            // The network broke the connection, or another process is there by now.
            Attempt::Open(another) => {
                reader = *another;
                shared.take(address, Event::Opened(reader.server.clone()));
                next_attempt = Instant::now() + SILENCE;
                last_state = None;
            }
            Attempt::Refused => return shared.take(address, Event::Refused),
            Attempt::Silent => {
                tracing::warn!(%address, replica = %reader.server.identity, "another replica accepts connections, but does not answer");
                shared.take(address, Event::Hung);
            }
            Attempt::Failed(cause) => {
                shared.take(address, Event::Failed(cause));
            }
        }
    }
}

async fn try_another(at: Instant, address: SocketAddr, shared: &Shared) -> Attempt {
    sleep_until(at).await;
    attempt(address, shared).await
}
