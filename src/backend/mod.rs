//! The backend layer: where records live.
//!
//! Owns every call to a store, one module for each kind of store. Decides nothing about keys: that is the task of `plan`.

pub mod etcd;
