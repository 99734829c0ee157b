//! A crossing: one address that several programs connect to, each of which goes on over a way of its own.
//!
//! Peers of a cluster all know a member by the same address. To cut one of them off from another, and from that one
//! only, the ways must part by who comes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{
    error::{Doing, Result},
    process::Port,
};

/// Whose connections go on where.
type Ways = Arc<Mutex<Vec<(u32, SocketAddr)>>>;

/// An address where ways part. It ends with this value.
#[derive(Debug)]
pub struct Crossing {
    port: Port,
    ways: Ways,
    accepting: JoinHandle<()>,
}

impl Crossing {
    /// Opens it, with no way leading on yet. Lives on the caller's runtime.
    pub async fn open() -> Result<Self> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind(port.address())
            .await
            .doing(|| format!("listen on {}", port.address()))?;
        let ways = Ways::default();
        let accepting = tokio::spawn(accept(listener, port.number(), ways.clone()));
        Ok(Self { port, ways, accepting })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http(&self) -> String {
        self.port.http()
    }

    /// What the process `pid` sends here goes on to `to`, from the next connection on.
    pub fn lead(&self, pid: u32, to: SocketAddr) {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.retain(|(_, known)| *known != to);
        ways.push((pid, to));
    }

    /// What the process `pid` sends here goes on to `to` as well, from the next connection on.
    pub fn also_lead(&self, pid: u32, to: SocketAddr) {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.push((pid, to));
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, ways: Ways) {
    // Ends with this task, and with it all connections.
    let mut connections = JoinSet::new();
    while let Ok((mut near, from)) = listener.accept().await {
        let known = ways.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Who comes from elsewhere, as a test that asks for health, is turned away.
        let Some(to) = way_of(from.port(), port, &known) else {
            continue;
        };
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Where the connection from one port to another goes on: by the process that holds its near end.
fn way_of(from: u16, to: u16, ways: &[(u32, SocketAddr)]) -> Option<SocketAddr> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode(&table, from, to)?;
    let socket = format!("socket:[{inode}]");
    let holder = ways.iter().find(|(pid, _)| holds(*pid, &socket));
    holder.map(|(_, to)| *to)
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new(socket)))
}

/// The inode of the socket that is connected from one loopback port to another, by the kernel's table.
fn inode(table: &str, from: u16, to: u16) -> Option<&str> {
    let address = |port: u16| format!("{:08X}:{port:04X}", u32::from_le_bytes(Ipv4Addr::LOCALHOST.octets()));
    let (near, far) = (address(from), address(to));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&near.as_str()) && fields.get(2) == Some(&far.as_str()))
            .then(|| fields.get(9).copied())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_process_sends_goes_its_way_and_others_are_turned_away() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let crossing = Crossing::open().await.unwrap();
        let address: SocketAddr = crossing.http().trim_start_matches("http://").parse().unwrap();
        let mut lost = TcpStream::connect(address).await.unwrap();
        assert_eq!(lost.read(&mut [0]).await.unwrap(), 0);
        crossing.lead(std::process::id(), far.local_addr().unwrap());
        let mut near = TcpStream::connect(address).await.unwrap();
        near.write_all(b"x").await.unwrap();
        let (mut arrived, _) = far.accept().await.unwrap();
        let mut byte = [0];
        arrived.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }
}
