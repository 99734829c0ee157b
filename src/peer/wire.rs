//! The wire protocol: lines of JSON, bounded in length.
//!
//! The client sends a nonce. The server answers with its own nonce, its identity, and the proof that it knows the key.
//! The client proves the same. From then on the server sends its state whenever that changes, and a heartbeat at least
//! every [`HEARTBEAT`]. The client sends nothing. The role, both nonces and the replicas are part of the authentication
//! codes, so that no message can be reflected to its sender or replayed on another connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::key::{BYTES, Mac, PeerKey, random};
use super::link::Replica;

/// The version of the protocol. A later version may add fields.
const VERSION: u32 = 1;
/// Maximum time between two messages of a server.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time limit for a handshake. A running process needs milliseconds.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(1);
/// Maximum length of a line before its sender is authenticated, in bytes.
const MOST_OF_A_STRANGER: usize = 2 << 10;
/// Maximum length of a line of an authenticated replica, in bytes: enough for some thousand Registries.
const MOST: usize = 1 << 20;

/// The state of a replica for one Registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryState {
    /// It is connected to the etcd and has renewed all recorded leases there itself.
    pub connected: bool,
    pub leading: bool,
}

/// What a replica states about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// Its view of Kubernetes is complete and up to date.
    #[serde(default)]
    pub fresh: bool,
    /// By name.
    #[serde(default)]
    pub registries: BTreeMap<String, RegistryState>,
}

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer's message exceeds the length limit")]
    TooLong,
    #[error("the peer's message is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "authentication failed: the peer does not have the peer key of this installation, or a message was altered"
    )]
    WrongKey,
}

impl From<LinesCodecError> for WireError {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::TooLong,
            LinesCodecError::Io(cause) => Self::Io(cause),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    v: u32,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    v: u32,
    identity: Arc<str>,
    incarnation: Arc<str>,
    nonce: String,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct Proof {
    identity: Arc<str>,
    incarnation: Arc<str>,
    mac: String,
}

/// A message of an authenticated server: its state, unless that is the same as in the message before.
#[derive(Serialize, Deserialize)]
struct Message {
    seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<ReplicaState>,
}

struct Lines(Framed<TcpStream, LinesCodec>);

impl Lines {
    fn new(stream: TcpStream) -> Self {
        // Messages are small, and none may wait for the next.
        let _ = stream.set_nodelay(true);
        Self(Framed::new(stream, LinesCodec::new_with_max_length(MOST_OF_A_STRANGER)))
    }

    fn trust(&mut self) {
        *self.0.codec_mut() = LinesCodec::new_with_max_length(MOST);
    }

    async fn line(&mut self) -> Result<String, WireError> {
        self.0
            .next()
            .await
            .unwrap_or(Err(LinesCodecError::Io(io::ErrorKind::UnexpectedEof.into())))
            .map_err(|error| match WireError::from(error) {
                WireError::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => WireError::Closed,
                other => other,
            })
    }

    async fn read<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    async fn write(&mut self, value: &impl Serialize) -> Result<(), WireError> {
        Ok(self.0.send(serde_json::to_string(value)?).await?)
    }
}

/// What both sides of a handshake sign.
struct Transcript<'a> {
    client_nonce: &'a Mac,
    server_nonce: &'a Mac,
    server: &'a Replica,
}

impl Transcript<'_> {
    fn parts(&self) -> [&[u8]; 4] {
        [
            &self.client_nonce.0,
            &self.server_nonce.0,
            self.server.identity.as_bytes(),
            self.server.incarnation.as_bytes(),
        ]
    }

    fn with<'a>(&'a self, client: &'a Replica) -> [&'a [u8]; 6] {
        let [a, b, c, d] = self.parts();
        [a, b, c, d, client.identity.as_bytes(), client.incarnation.as_bytes()]
    }
}

fn nonce() -> Mac {
    Mac(random::<BYTES>().to_vec())
}

fn parse(text: &str) -> Result<Mac, WireError> {
    text.parse().map_err(|_| WireError::WrongKey)
}

/// The client's end of an authenticated connection.
pub(super) struct Reader {
    lines: Lines,
    session: PeerKey,
    seq: u64,
    /// The process at the other end.
    pub(super) server: Replica,
}

impl Reader {
    /// Authenticates both ends of a new connection as the client `me`.
    pub(super) async fn open(stream: TcpStream, key: &PeerKey, me: &Replica) -> Result<Self, WireError> {
        let mut lines = Lines::new(stream);
        let client_nonce = nonce();
        let greeting = Greeting {
            v: VERSION,
            nonce: client_nonce.to_string(),
        };
        lines.write(&greeting).await?;
        let Answer {
            identity,
            incarnation,
            nonce,
            mac,
            ..
        } = lines.read().await?;
        let server_nonce = parse(&nonce)?;
        let server = Replica { identity, incarnation };
        let transcript = Transcript {
            client_nonce: &client_nonce,
            server_nonce: &server_nonce,
            server: &server,
        };
        if !key.verify("server", &transcript.parts(), &parse(&mac)?) {
            return Err(WireError::WrongKey);
        }
        let proof = Proof {
            identity: me.identity.clone(),
            incarnation: me.incarnation.clone(),
            mac: key.sign("client", &transcript.with(me)).to_string(),
        };
        lines.write(&proof).await?;
        let session = key.derive(&transcript.with(me));
        lines.trust();
        Ok(Self {
            lines,
            session,
            seq: 0,
            server,
        })
    }

    /// Waits for the next message and returns its state, if that is new. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<ReplicaState>, WireError> {
        let line = self.lines.line().await?;
        let (mac, text) = line.split_once(' ').ok_or(WireError::WrongKey)?;
        if !self.session.verify("state", &[text.as_bytes()], &parse(mac)?) {
            return Err(WireError::WrongKey);
        }
        let message: Message = serde_json::from_str(text)?;
        if message.seq != self.seq {
            return Err(WireError::WrongKey);
        }
        self.seq += 1;
        Ok(message.state)
    }
}

/// The server's end of an authenticated connection.
pub(super) struct Writer {
    lines: Lines,
    session: PeerKey,
    seq: u64,
    /// The process at the other end.
    pub(super) client: Replica,
}

impl Writer {
    /// Authenticates both ends of a new connection as the server `me`.
    pub(super) async fn open(stream: TcpStream, key: &PeerKey, me: &Replica) -> Result<Self, WireError> {
        let mut lines = Lines::new(stream);
        let Greeting { nonce: text, .. } = lines.read().await?;
        let (client_nonce, server_nonce) = (parse(&text)?, nonce());
        let transcript = Transcript {
            client_nonce: &client_nonce,
            server_nonce: &server_nonce,
            server: me,
        };
        let answer = Answer {
            v: VERSION,
            identity: me.identity.clone(),
            incarnation: me.incarnation.clone(),
            nonce: server_nonce.to_string(),
            mac: key.sign("server", &transcript.parts()).to_string(),
        };
        lines.write(&answer).await?;
        let Proof {
            identity,
            incarnation,
            mac,
        } = lines.read().await?;
        let client = Replica { identity, incarnation };
        if !key.verify("client", &transcript.with(&client), &parse(&mac)?) {
            return Err(WireError::WrongKey);
        }
        let session = key.derive(&transcript.with(&client));
        Ok(Self {
            lines,
            session,
            seq: 0,
            client,
        })
    }

    /// Sends a state, or a heartbeat without one.
    pub(super) async fn send(&mut self, state: Option<ReplicaState>) -> Result<(), WireError> {
        let text = serde_json::to_string(&Message { seq: self.seq, state })?;
        self.seq += 1;
        let mac = self.session.sign("state", &[text.as_bytes()]);
        Ok(self.lines.0.send(format!("{mac} {text}")).await?)
    }

    /// Returns when the client has closed the connection or sends something, which it never does. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        let _ = self.lines.line().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn replica(name: &str) -> Replica {
        Replica {
            identity: name.into(),
            incarnation: format!("{name}-1").into(),
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client_stream, server_stream) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client_stream.expect("connects"), server_stream.expect("accepts").0)
    }

    async fn opened(client: &PeerKey, server: &PeerKey) -> (Result<Reader, WireError>, Result<Writer, WireError>) {
        let (client_stream, server_stream) = pair().await;
        let (a, b) = (replica("a"), replica("b"));
        tokio::join!(
            Reader::open(client_stream, client, &a),
            Writer::open(server_stream, server, &b)
        )
    }

    #[tokio::test]
    async fn both_ends_know_each_other_and_states_arrive_in_order() {
        let key = PeerKey::random();
        let (reader, writer) = opened(&key, &key).await;
        let (mut reader, mut writer) = (reader.expect("a reader"), writer.expect("a writer"));
        assert_eq!((&reader.server, &writer.client), (&replica("b"), &replica("a")));
        let state = ReplicaState {
            fresh: true,
            registries: BTreeMap::from([("default".to_owned(), RegistryState::default())]),
        };
        writer.send(Some(state.clone())).await.expect("sent");
        writer.send(None).await.expect("sent");
        assert_eq!(reader.next().await.expect("a message"), Some(state));
        assert_eq!(reader.next().await.expect("a message"), None);
        drop(writer);
        assert!(matches!(reader.next().await, Err(WireError::Closed)));
    }

    #[tokio::test]
    async fn handshake_fails_with_different_keys() {
        let (reader, writer) = opened(&PeerKey::random(), &PeerKey::random()).await;
        assert!(matches!(reader, Err(WireError::WrongKey)));
        assert!(writer.is_err());
    }

    #[tokio::test]
    async fn server_rejects_its_own_reflected_handshake() {
        let key = PeerKey::random();
        let (mut client_stream, server_stream) = pair().await;
        let reflect = async {
            let greeting = format!("{{\"v\":1,\"nonce\":\"{}\"}}\n", nonce());
            client_stream.write_all(greeting.as_bytes()).await.expect("sent");
            let mut answer = vec![0; 4096];
            let length = client_stream.read(&mut answer).await.expect("an answer");
            client_stream.write_all(&answer[..length]).await.expect("sent");
        };
        let server = replica("b");
        let (opened, ()) = tokio::join!(Writer::open(server_stream, &key, &server), reflect);
        assert!(matches!(opened, Err(WireError::WrongKey)));
    }

    #[tokio::test]
    async fn altered_or_replayed_message_ends_the_connection() {
        let key = PeerKey::random();
        for change in ["true", "repeat"] {
            let (reader, writer) = opened(&key, &key).await;
            let (mut reader, mut writer) = (reader.expect("a reader"), writer.expect("a writer"));
            let text = r#"{"seq":0,"state":{"fresh":false,"registries":{}}}"#;
            let mac = writer.session.sign("state", &[text.as_bytes()]);
            let line = match change {
                "true" => format!("{mac} {}", text.replace("false", "true")),
                _ => format!("{mac} {text}\n{mac} {text}"),
            };
            writer.lines.0.send(line).await.expect("sent");
            if change == "repeat" {
                reader.next().await.expect("the first one is good");
            }
            assert!(matches!(reader.next().await, Err(WireError::WrongKey)), "{change}");
        }
    }

    #[tokio::test]
    async fn overlong_line_of_an_unauthenticated_client_is_rejected() {
        let (mut client_stream, server_stream) = pair().await;
        let flood = async {
            // The server may close the connection before all of it is sent.
            let _ = client_stream.write_all(&vec![b'x'; 1 << 20]).await;
        };
        let (key, server) = (PeerKey::random(), replica("b"));
        let (opened, ()) = tokio::join!(Writer::open(server_stream, &key, &server), flood);
        assert!(matches!(opened, Err(WireError::TooLong)));
    }
}
