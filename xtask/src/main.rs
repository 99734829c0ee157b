//! Placeholder of the scaffold.
fn main() {}
