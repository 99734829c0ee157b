//! The etcd side: connection, election, renewal, the mirror of our keys and the fenced writer.
//!
//! Owns every call to etcd, each with a time-out and a counted outcome. Decides nothing about keys:
//! that is `plan`'s.
