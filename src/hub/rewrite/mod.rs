//! Upstream's words made the mirror's: links point here, and nothing speaks of Xet.

mod link;
mod xet;

pub(crate) use link::split_unquoted;
pub use link::{link_header, location_header};
pub use xet::{XET_SIGNAL_HEADERS, strip_xet};
