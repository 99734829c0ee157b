//! The etcd layer against real etcds: writes and refusals, lease renewal, the mirror and leader election.

mod common;
mod contract;
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

contract::each_test!(common::one);
