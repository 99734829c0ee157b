//! A bad network: ways between two programs that a test makes slow, narrow or dark.
//!
//! Owns the proxy that is it (toxiproxy) and the ways through it. Knows nothing of what travels there.

mod pretender;
mod proxy;
mod source;

pub use pretender::{Balancer, Web, WebServer};
pub use proxy::{Link, Network};
pub use source::Crossing;
