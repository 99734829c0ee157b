//! Small questions over plain HTTP: health checks, metrics, orders to a proxy.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status code and body of `GET path`, within 5 seconds.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    send(server, "GET", path, "").await
}

/// The same with a bearer token.
pub async fn get_with_token(server: SocketAddr, path: &str, token: &str) -> io::Result<(u16, String)> {
    within_time(ask(
        server,
        "GET",
        path,
        &format!("Authorization: Bearer {token}\r\n"),
        "",
    ))
    .await
}

/// Status code and body of the answer to a request with a body, within 5 seconds.
pub async fn send(server: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    within_time(ask(server, method, path, "", body)).await
}

async fn within_time(answer: impl Future<Output = io::Result<(u16, String)>>) -> io::Result<(u16, String)> {
    timeout(PATIENCE, answer)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn ask(server: SocketAddr, method: &str, path: &str, header: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = body.len();
    // HTTP/1.0 has neither keep-alive nor chunks: the answer ends with the connection.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {server}\r\nAccept: */*\r\n{header}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}
