//! What may listen where a member of etcd is expected: a web server, or one address for several members.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::error::{Doing, Result};

/// What a web server speaks.
#[derive(Clone, Copy, Debug)]
pub enum Web {
    /// HTTP/1.1 alone: 404 with a page.
    Http1,
    /// HTTP/2: 404 without a page.
    Http2,
    /// HTTP/2: 200 with a page.
    Http2Page,
}

/// A web server that is no etcd. It ends with this value.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl WebServer {
    /// Starts one.
    pub async fn start(web: Web) -> Result<Self> {
        let (listener, address) = listen().await?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // A client that hangs up is none of its business.
                    let _ = match web {
                        Web::Http1 => http1(stream).await,
                        Web::Http2 | Web::Http2Page => http2(stream, matches!(web, Web::Http2Page)).await,
                    };
                });
            }
        });
        Ok(Self { address, task })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.doing(|| "listen")?;
    let address = listener.local_addr().doing(|| "listen")?;
    Ok((listener, address))
}

async fn http1(mut stream: TcpStream) -> std::io::Result<()> {
    // Whatever is asked for; what is read of it does not matter.
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    let page = "<html><body>404 page not found</body></html>";
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// As much of HTTP/2 as it takes to answer each request in the same way (RFC 9113).
async fn http2(mut stream: TcpStream, with_page: bool) -> std::io::Result<()> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, b"")).await?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).await?,
            // Entries 8 and 13 of the static table: `:status: 200` and `:status: 404` (RFC 7541).
            HEADERS if with_page => {
                stream.write_all(&frame(HEADERS, END_HEADERS, id, &[0x88])).await?;
                let page = b"<html><body>welcome</body></html>";
                stream.write_all(&frame(DATA, END_STREAM, id, page)).await?;
            }
            HEADERS => {
                let end = END_HEADERS | END_STREAM;
                stream.write_all(&frame(HEADERS, end, id, &[0x8d])).await?;
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}

/// One address for several servers, as a load balancer has it: each new connection goes to the server that is chosen then,
/// and stays there. It ends with this value.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    chosen: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Starts one that chooses the first of `servers`.
    pub async fn start(servers: Vec<SocketAddr>) -> Result<Self> {
        let (listener, address) = listen().await?;
        let chosen = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let chosen = chosen.clone();
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let server = servers[chosen.load(Ordering::Relaxed)];
                    tokio::spawn(async move {
                        if let Ok(mut server) = TcpStream::connect(server).await {
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                        }
                    });
                }
            }
        });
        Ok(Self { address, chosen, task })
    }

    /// Sends new connections to this server, counted from 0.
    pub fn choose(&self, server: usize) {
        self.chosen.store(server, Ordering::Relaxed);
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
