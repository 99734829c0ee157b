//! Detects a server other than etcd: often a web server, because its port was configured instead of etcd's.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time-out of the check.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest part of the answer that is read, in bytes; etcd's answer is shorter.
const MOST: u64 = 4096;

/// Returns the answer of a web server at `url` that is not etcd; `None` if the server is etcd or does not speak plain
/// HTTP. etcd answers plain HTTP/1.1 on its client port and identifies itself. A web server without HTTP/2 breaks the
/// connection of every gRPC call.
pub(super) async fn answer(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    if url.scheme_str() != Some("http") {
        return None;
    }
    let authority = url.authority()?;
    let address = (
        authority.host().trim_start_matches('[').trim_end_matches(']'),
        authority.port_u16().unwrap_or(80),
    );
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /version HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PROBE_TIMEOUT, ask).await.ok()?.ok()?;
    foreign(&String::from_utf8_lossy(&answer))
}

/// Returns the first line of an HTTP answer that is not etcd's.
fn foreign(answer: &str) -> Option<String> {
    let (first, rest) = answer.split_once("\r\n")?;
    // A longer line is no status line.
    let is_http = first.starts_with("HTTP/1.") && first.len() < 100;
    // Only etcd's answer contains this field.
    let is_etcd = rest.contains("\"etcdserver\"");
    let printable = first.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    (is_http && !is_etcd && printable).then(|| format!("answered with {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_in_http_that_is_not_etcd_s_is_foreign() {
        let page = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>";
        assert_eq!(foreign(page).as_deref(), Some("answered with HTTP/1.1 404 Not Found"));
        let etcd = "HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.6.15\",\"etcdcluster\":\"3.6.0\"}";
        assert_eq!(foreign(etcd), None);
        for other in ["", "\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 \u{1b}[31m\r\n"] {
            assert_eq!(foreign(other), None, "{other:?}");
        }
    }
}
