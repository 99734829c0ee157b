//! The wiring: which part is told what by which, and what happens when one ends.
//!
//! Owns the tasks and the channels between them: one `intake` for all that Kubernetes says, one `registrar` for
//! each Registry, one desk for each kind of status and one for Events. Decides nothing about keys (`plan`) or pods (`index`).

mod access;
mod budget;
mod compile;
mod failure;
mod haste;
mod intake;
mod neighbours;
mod pacer;
mod policy;
mod purge;
mod registrar;
mod rehearsal;
mod run;
mod state;
#[cfg(test)]
mod testing;

pub use access::{Unresolved, Wrong, resolve, sources};
pub use compile::Invalid;
pub use failure::Failure;
pub use purge::{Purge, PurgeError, Purged};
pub use rehearsal::{Change, Outcome, Refusal, Rehearsal, meet};
pub use run::{MetricsAuth, Options, run};
