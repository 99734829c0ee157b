//! A crossing: one address that several programs connect to, each of which goes on over a way of its own.
//!
//! Peers of a cluster all know a member by the same address. To cut one of them off from another, and from that one
//! only, the ways must part by who comes.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet, spawn_blocking},
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
    while let Ok((near, from)) = listener.accept().await {
        let ways = ways.clone();
        connections.spawn(async move {
            let _ = lead_on(near, from.port(), port, ways).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Passes on what one connection brings, until it ends.
async fn lead_on(mut near: TcpStream, from: u16, port: u16, ways: Ways) -> io::Result<()> {
    // The kernel takes a tenth of a second to list all sockets of a busy machine. On the test's own thread, the retries of
    // a process that is turned away would hold up what goes over the other connections.
    let look = move || {
        let known = ways.lock().unwrap_or_else(PoisonError::into_inner).clone();
        way_of(from, port, &known)
    };
    // Who comes from elsewhere, as a test that asks for health, is turned away.
    if let Some(to) = spawn_blocking(look).await? {
        let mut far = TcpStream::connect(to).await?;
        // Small messages that wait for an acknowledgement would take 40 ms more.
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        copy_bidirectional(&mut near, &mut far).await?;
    }
    Ok(())
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
