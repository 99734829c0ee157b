//! The server: accepts other replicas and sends each of them the state of this one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::peers::Peers;
use super::wire::{HANDSHAKE, HEARTBEAT, WireError, Writer};

/// Maximum number of connections in their handshake. The oldest is closed for the newest. A replica needs a few
/// milliseconds for the handshake, and a foreign client never completes it.
const STRANGERS: usize = 64;
/// Maximum number of connected replicas. The oldest connection is closed for the newest.
const REPLICAS: usize = 64;
/// How long a replica may take to accept a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a local failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts other replicas on `listener` until `shutdown`.
pub async fn listen(listener: TcpListener, peers: Peers, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = accept(&listener, &peers) => match never {},
    }
}

/// Connections of one kind. The oldest is closed when there are too many.
struct Room {
    most: usize,
    handles: VecDeque<AbortHandle>,
}

impl Room {
    fn new(most: usize) -> Self {
        Self {
            most,
            handles: VecDeque::new(),
        }
    }

    fn add(&mut self, handle: AbortHandle) {
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= self.most
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(handle);
    }
}

async fn accept(listener: &TcpListener, peers: &Peers) -> Infallible {
    let (mut handshakes, mut connections) = (JoinSet::new(), JoinSet::new());
    let (mut strangers, mut replicas) = (Room::new(STRANGERS), Room::new(REPLICAS));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => strangers.add(handshakes.spawn(greet(stream, peers.clone()))),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection from another replica");
                    sleep(PAUSE).await;
                }
            },
            Some(greeted) = handshakes.join_next() => if let Ok(Some(writer)) = greeted {
                replicas.add(connections.spawn(state(writer, peers.clone())));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn greet(stream: TcpStream, peers: Peers) -> Option<Writer> {
    let key = peers.shared().key()?;
    match timeout(HANDSHAKE, Writer::open(stream, &key, &peers.shared().me)).await {
        Ok(Ok(writer)) => Some(writer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "closed a connection to the peer port");
            if matches!(error, WireError::WrongKey) {
                peers.shared().report_key_mismatch();
            }
            None
        }
        Err(_) => None,
    }
}

async fn state(mut writer: Writer, peers: Peers) {
    tracing::debug!(replica = %writer.client.identity, "another replica connected");
    let mut states = peers.states();
    let mut next = Some(states.borrow_and_update().clone());
    loop {
        match timeout(WRITE_TIMEOUT, writer.send(next.take())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        tokio::select! {
            () = writer.ended() => return,
            changed = states.changed() => match changed {
                Ok(()) => next = Some(states.borrow_and_update().clone()),
                Err(_) => return,
            },
            () = sleep(HEARTBEAT) => {}
        }
    }
}
