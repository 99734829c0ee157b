//! One tenant's flood beside a quiet one: how long the quiet one's pod takes to its key, alone and beside a thousand
//! registrations whose pods flap as fast as a client can make them.
//!
//! All servers share this machine with the operator, so a flood makes all of them slower. Beside the operator works a
//! [`control`]: a plain client that watches the same pod and writes one key of its own. What the operator adds to the
//! control's delay is its own.
//!
//! The numbers are printed: `cargo test --test flood -- --nocapture`. `FLOOD_TRIES` says how often the pod comes or
//! goes, `FLOOD_BINARY` names another build of the operator.

#[path = "../support/mod.rs"]
mod support;

mod control;
mod numbers;
mod storm;
mod tenants;
