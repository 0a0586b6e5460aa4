//! conductor: the node's front door.
fn main() {}
