//! Fuzz targets of the planner: events of etcd and Kubernetes in any order, and arbitrary bookkeeping records. See
//! `src/fuzz`.

mod cluster;
mod histories;
mod records;

pub(crate) use histories::{any_event, histories};
pub(crate) use records::{any_record, records};
