//! The etcd side against real etcds: what is written and refused, kept alive, seen, and who leads.

mod common;
mod election;
mod election_faults;
mod hanging_member;
mod mirror;
mod mirror_faults;
mod renewal;
mod rights;
mod ten_thousand;
mod unusable;
mod view;
mod writer;
