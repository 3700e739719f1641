//! The integration tests: the real binary on loopback, a fake Hub behind it, and clients in front.
//!
//! The modules (harness, clients, cold, demo) are listed here once the binary serves.
fn main() {}
