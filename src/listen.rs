//! Listening sockets that accept connections of both IP families.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens on `address`. An unspecified address, 0.0.0.0 or `::`, means all addresses of both IP families, as in Go
/// programs, because a pod's address is of the family that its cluster uses. If the kernel supports only IPv4, the
/// socket accepts only IPv4. A specific address is used unchanged.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    by(bind, address)
}

fn by<T>(bind: impl Fn(SocketAddr) -> io::Result<T>, address: SocketAddr) -> io::Result<T> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    match bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port())) {
        Err(error) if lacks_ipv6(&error) => bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())),
        bound => bound,
    }
}

/// Whether IPv6 is missing from the kernel (no such family) or disabled (no such address).
fn lacks_ipv6(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Overrides the machine's `net.ipv6.bindv6only`.
        socket.set_only_v6(false)?;
    }
    // As tokio's own listeners do: a restart need not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn an_unspecified_address_of_either_family_answers_on_both() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(address.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            if has_ipv6() {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_specified_address_is_taken_as_it_is() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap_err();
        // The port is in use now.
        let error = listen(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_kernel_without_ipv6_listens_on_ipv4() {
        for errno in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
            let kernel = |address: SocketAddr| match address {
                SocketAddr::V6(_) => Err(errno.into()),
                SocketAddr::V4(_) => Ok(address),
            };
            for asked in ["0.0.0.0:80", "[::]:80"] {
                let bound = by(kernel, asked.parse().unwrap()).unwrap();
                assert_eq!(bound, "0.0.0.0:80".parse().unwrap());
            }
            by(kernel, "[::1]:80".parse().unwrap()).unwrap_err();
        }
        // A port that is in use is an error: falling back to IPv4 only would hide it.
        by(|_| Err::<(), _>(Errno::ADDRINUSE.into()), "0.0.0.0:80".parse().unwrap()).unwrap_err();
    }

    fn has_ipv6() -> bool {
        std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
    }
}
