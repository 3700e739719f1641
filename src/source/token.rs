//! A caller's credentials: carried upstream, compared by keyed hash, never printed.

use once_cell::sync::Lazy;
use sha2::{Digest, Sha256};
use std::fmt;

/// A key of this process, so that a hash of a token says nothing outside of it.
static KEY: Lazy<[u8; 32]> = Lazy::new(rand::random);

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a header value; an empty one is no token.
    pub fn from_header(value: Option<&str>) -> Option<Token> {
        value.map(str::trim).filter(|v| !v.is_empty()).map(|v| Token(v.to_owned()))
    }

    /// The header value, for the Hub's own hosts only.
    pub fn header(&self) -> &str {
        &self.0
    }

    /// What stands for this token in memory; all zeros stand for no token.
    pub fn fingerprint(token: Option<&Token>) -> [u8; 32] {
        let Some(token) = token else { return [0; 32] };
        let mut hash = Sha256::new();
        hash.update(*KEY);
        hash.update(token.0.as_bytes());
        hash.finalize().into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
