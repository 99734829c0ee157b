//! How a Registry's etcd is entered: TLS, certificates of clients, user and password; what is said when that fails, and
//! what happens when it changes. Against real etcds with TLS and authentication on, as users with no more rights than
//! the operator needs.

#[path = "../support/mod.rs"]
mod support;

mod confirmation;
mod edits;
mod ending;
mod faults;
mod members;
mod moves;
mod p10_rights;
mod restart;
mod role;
mod rotation;
mod scene;
mod secrecy;
mod tokens;
mod ways;
