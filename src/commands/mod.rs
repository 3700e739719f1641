//! What the program does besides serving.
//!
//! [`pull`] and [`status`] talk to a mirror over HTTP, as any client would; they are told an address, and `pull` looks at the end
//! whether the store has [`kept`] it all. [`ls`], [`verify`] and [`keep`]
//! (`rm`, `gc`, `pin`) look at the store's directory, which they may do beside a server, and have its [`crate::admin::Keeper`] change
//! it: the server, or this process when there is none. [`import`] and [`load`] bring objects in the same way, proven before the keeper
//! hears of them; [`export`] only reads, and [`check`] has been done when it is called.
//!
//! Output that a script may want goes to stdout, talk and progress to stderr. Each ends with the exit code: 0 done, 1 not.

mod bundle;
pub mod check;
pub(crate) mod client;
pub mod condition;
mod confirm;
pub mod export;
pub mod import;
mod intake;
pub(crate) mod inventory;
pub mod keep;
pub mod kept;
pub mod load;
pub mod ls;
mod output;
pub(crate) mod progress;
pub mod pull;
pub mod status;
mod table;
pub mod verify;

use std::process::ExitCode;

/// Says why not, on stderr.
fn failed(why: &str) -> ExitCode {
    eprintln!("dingospeed: {why}");
    ExitCode::FAILURE
}

/// Writes `1 repo` or `3 repos`.
fn counted(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
