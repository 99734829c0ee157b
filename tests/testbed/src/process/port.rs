//! Loopback ports that stay ours across restarts of a server.

use std::{
    fs::{File, TryLockError},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::net::TcpSocket;

use crate::{
    error::{Doing, Error, Result},
    tools,
};

/// Below the range from which the kernel picks ports for outgoing connections: otherwise any client on the machine could
/// sit on a server's port while that server is down for a restart.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port on 127.0.0.1 reserved for this value's lifetime against all other beds on the machine, by a lock on a file.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which no process listens.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = tools::cache_folder()?.join("ports");
        std::fs::create_dir_all(&folder).doing(|| format!("create the folder {}", folder.display()))?;
        // Processes start their search apart from each other; a collision only costs a step.
        let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT)).expect("below COUNT");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + start.wrapping_add(step) % COUNT;
            let path = folder.join(number.to_string());
            let lock = File::create(&path).doing(|| format!("create {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io {
                        doing: format!("lock {}", path.display()),
                        source,
                    });
                }
            }
            if probe((Ipv4Addr::LOCALHOST, number).into()).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::Invalid(format!(
            "no free port between {FIRST} and {}; end some servers",
            FIRST + COUNT
        )))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http(&self) -> String {
        format!("http://{}", self.address())
    }
}

/// Returns an error if a program listens on `address`. The probe does not listen itself: a process that another thread
/// starts meanwhile has a copy of the socket until it executes its program, and a copy that listens keeps the port in use.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn probe_fails_on_a_port_in_use_and_leaves_a_free_one_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(probe(address).is_err());
        drop(listener);
        let copy = TcpSocket::new_v4().unwrap();
        copy.set_reuseaddr(true).unwrap();
        copy.bind(address).unwrap();
        probe(address).unwrap();
        TcpListener::bind(address).unwrap();
    }
}
