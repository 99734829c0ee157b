//! Registers Kubernetes pods in etcd, so that clients outside the cluster keep finding them.
//!
//! How a pod becomes keys, module by module:
//!
//! 1. [`mod@kube`] watches Kubernetes and decodes each pod into the few fields that matter.
//! 2. [`index`] caches pods and registrations, and knows which registration selects which pod.
//! 3. [`controller`] queues what has changed and passes it to the worker of its Registry.
//! 4. [`plan`] computes the desired keys of an endpoint (through [`mod@format`]), compares them with the observed keys,
//!    and returns transactions.
//! 5. [`backend`] elects a leader, renews leases, watches the operator's keys and commits the transactions, fenced.
//! 6. [`mod@kube`] writes what is registered into the registration's status.
//!
//! [`controller`] also starts and supervises all tasks; [`peer`] connects the replicas with each other; [`api`] defines the
//! custom resources; [`telemetry`] serves metrics, health and logs; [`cli`] parses commands; [`secret`] keeps credentials
//! out of logs; [`listen`] opens sockets.
//!
//! `index`, `plan` and `format` are pure: plain data in, plain data out, time as a parameter.

#[cfg(test)]
extern crate self as leasehold;

pub mod api;
pub mod backend;
pub mod cli;
pub mod controller;
pub mod format;
#[cfg(test)]
mod fuzz;
pub mod index;
pub mod kube;
pub mod listen;
pub mod model;
pub mod peer;
pub mod plan;
pub mod secret;
pub mod telemetry;
