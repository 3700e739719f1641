//! Where bytes come from: the Hub, its CDN and other mirrors of it, over pingora's connectors.
//!
//! A source knows URLs, connections, redirects and tokens. It never touches the disk and decides nothing about what is
//! kept. Enter by [`Origin`]: questions are [`Asking`], bytes a [`Body`].
//!
//! Downwards: `origin` (which upstreams there are) > `asking` (one question, several upstreams) > `client` (one request) >
//! `hosts`, `breaker` and `hold` (is it worth trying), `budget` (may we ask yet), `dialer` and `tunnel` (how to get there).

mod asking;
mod body;
mod breaker;
mod budget;
mod client;
pub mod deadline;
mod dialer;
mod error;
mod hold;
mod hook;
mod hosts;
mod origin;
#[cfg(test)]
mod tests;
mod token;
mod tunnel;
mod url;

pub use asking::Asking;
pub use body::Body;
pub(crate) use budget::retry_after;
pub use error::SourceError;
pub use hook::Hook;
pub use origin::{Located, Origin, Reply};
pub use token::Token;
pub use url::Url;
