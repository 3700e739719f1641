//! What the program does besides serving: each command talks to a mirror over HTTP, as any client would.
//!
//! A command never opens the store and never knows the parts of a server; it is told an address. Output that a script may
//! want goes to stdout, talk and progress to stderr. Each ends with the exit code: 0 done, 1 not.

mod client;
mod progress;
pub mod pull;
pub mod status;
