//! The page: one file, which names no other host. Its policy allows the script and the style that are in it, and nothing else.

use super::response;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use once_cell::sync::Lazy;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// What the page may do, in the words of a Content-Security-Policy.
static POLICY: Lazy<String> = Lazy::new(|| {
    let (script, style) = (hash_of("script"), hash_of("style"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'"
    )
});

pub(super) fn response_of_page() -> Response<Bytes> {
    let mut response = response(200, "text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes()));
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Hashes what stands between `<tag>` and `</tag>`, of which there is one.
fn hash_of(tag: &str) -> String {
    let inner = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    let hash = Sha256::digest(inner.map_or("", |(inner, _)| inner));
    format!("sha256-{}", STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_by_itself() {
        for tag in ["script", "style"] {
            assert_eq!((PAGE.matches(&format!("<{tag}>")).count(), PAGE.matches(&format!("</{tag}>")).count()), (1, 1), "{tag}");
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag} with attributes has no hash");
        }
        for foreign in
            ["http://", "https://", "src=", "@import", "url(", "style=\"", "onclick=", "innerHTML", "insertAdjacentHTML"]
        {
            let found: Vec<_> = PAGE.lines().filter(|line| line.contains(foreign)).collect();
            assert!(found.is_empty(), "{foreign}: {found:?}");
        }
    }

    #[test]
    fn the_policy_allows_nothing_by_the_way() {
        let response = response_of_page();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    }
}
