//! Signed CDN addresses: good for one object, until a time, and only exactly as they were given out.

use crate::content::sha256_hex;
use crate::respond::encode;

const SECRET: &str = "fake-hub-key-pair";

/// Signs a path and its query for use until `expires` (Unix seconds, excluded).
pub(crate) fn signed(path: &str, query: &str, expires: u64) -> String {
    let policy = encode(&sha256_hex(format!("policy {path} {expires}"))[..32]);
    let unsigned = format!("{path}?{query}&Expires={expires}&Policy={policy}");
    let signature = signature_of(&unsigned);
    format!("{unsigned}&Signature={signature}&Key-Pair-Id=KFAKEHUB0000")
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Expired,
    Forged,
}

/// Checks an address as it came, byte for byte.
pub(crate) fn verify(path: &str, query: &str, now: u64) -> Verdict {
    let Some((unsigned, rest)) = query.split_once("&Signature=") else {
        return Verdict::Forged;
    };
    let signature = rest.split('&').next().unwrap_or_default();
    if signature != signature_of(&format!("{path}?{unsigned}")) {
        return Verdict::Forged;
    }
    let expires = unsigned.split('&').find_map(|pair| pair.strip_prefix("Expires=")?.parse::<u64>().ok());
    match expires {
        Some(expires) if now < expires => Verdict::Good,
        Some(_) => Verdict::Expired,
        None => Verdict::Forged,
    }
}

fn signature_of(unsigned: &str) -> String {
    sha256_hex(format!("{SECRET} {unsigned}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_good_until_its_time_and_unchanged() {
        let address = signed("/x/y", "user_id=public", 100);
        let (path, query) = address.split_once('?').unwrap_or_default();
        assert_eq!(verify(path, query, 99), Verdict::Good);
        assert_eq!(verify(path, query, 100), Verdict::Expired);
        assert_eq!(verify("/x/z", query, 99), Verdict::Forged);
        assert_eq!(verify(path, &query.replace("Expires=100", "Expires=999"), 99), Verdict::Forged);
        assert_eq!(verify(path, "", 99), Verdict::Forged);
    }
}
