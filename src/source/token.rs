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

    /// What stands for this token on disk, in one context: without the key it neither tells the token nor proves a guess.
    pub fn mark(&self, key: &[u8; 32], context: &str) -> String {
        let mark = hmac(key, &[context.as_bytes(), b"\0", self.0.as_bytes()]);
        mark.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// HMAC-SHA256 (RFC 2104); the block of SHA-256 has 64 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let padded = |pad: u8| {
        let mut block = [pad; 64];
        block.iter_mut().zip(key).for_each(|(byte, of_key)| *byte ^= of_key);
        Sha256::new().chain_update(block)
    };
    let inner = parts.iter().fold(padded(0x36), |hash, part| hash.chain_update(part));
    padded(0x5c).chain_update(inner.finalize()).finalize().into()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_hmacs() {
        // RFC 4231, case 1 with its 20-byte key filled up with zeros, which is the same key.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mac: String = hmac(&key, &[b"Hi ", b"There"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        let token = Token("Bearer hf_x".to_owned());
        assert_ne!(token.mark(&key, "models/a/b"), token.mark(&key, "models/a/c"));
        assert_eq!(token.mark(&key, "models/a/b").len(), 64);
    }
}
