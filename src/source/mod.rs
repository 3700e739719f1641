//! Where bytes come from: the Hub and its CDN, over pingora's connectors.
//!
//! A source knows URLs, connections, redirects and tokens. It never touches the disk and decides nothing about what is
//! kept. Enter by [`Origin`].

mod dialer;
mod error;
mod origin;
mod token;
mod url;

pub use error::SourceError;
pub(crate) use origin::retry_after;
pub use origin::{Body, Located, Origin, Reply};
pub use token::Token;
pub use url::Url;
