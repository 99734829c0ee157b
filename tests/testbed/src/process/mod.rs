//! Processes of this machine as things that a test can hold: started, signalled, restarted, and never outliving their owner.
//!
//! Owns process life cycles, temporary folders, free ports and plain HTTP questions. Knows nothing of etcd or Kubernetes.

mod folder;
mod guard;
mod handle;
pub mod http;
mod port;

pub use folder::Folder;
pub use handle::{Process, Spec};
pub use port::Port;
