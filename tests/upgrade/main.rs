//! The release before this tree, this tree in its place, and that release again: consumers see nothing of it, and what
//! changes between two such steps goes its way.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/turn.rs"]
mod turn;

mod roads;
mod scene;
