//! What the ledger is told by etcd and Kubernetes, in any order and with anything among its records. See `src/fuzz`.

mod cluster;
mod histories;
mod records;

pub(crate) use histories::{any_event, histories};
pub(crate) use records::{any_record, records};
