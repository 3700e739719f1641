//! Request heads that two readers could understand differently are refused, however pingora would read them.
//!
//! Nothing of a client's head goes upstream, so no request can be smuggled there. But a proxy may stand in front, and where
//! it and we disagree on the end of a request, one client's bytes become part of another's.

use http::Version;

/// Returns what is wrong with a head, from its first line to the empty line that ends it. `version` is the request's own.
pub(super) fn fault(raw: &[u8], version: Version) -> Option<&'static str> {
    let mut raw = raw;
    // Empty lines in front of a request mean nothing (RFC 9112, 2.2).
    while let Some(rest) = raw.strip_prefix(b"\r\n") {
        raw = rest;
    }
    let Some(raw) = raw.strip_suffix(b"\r\n\r\n") else { return Some("it does not end in an empty line") };
    let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
    let mut lines = raw.split(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        // The last line has lost its end above.
        let is_last = lines.peek().is_none();
        let Some(line) = (if is_last { Some(line) } else { line.strip_suffix(b"\r") }) else {
            return Some("a line does not end in CR LF");
        };
        if line.is_empty() {
            return Some("it holds an empty line");
        }
        if line.contains(&b'\r') || line.contains(&0) {
            return Some("a line holds a control character");
        }
        if index == 0 {
            continue;
        }
        if matches!(line[0], b' ' | b'\t') {
            return Some("a header is folded");
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], line[at + 1..].trim_ascii())) else {
            return Some("a header has no colon");
        };
        if name.iter().any(|byte| byte.is_ascii_whitespace()) {
            return Some("a header's name holds white space");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Some("its Content-Length is not a number");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Some("its Transfer-Encoding is not chunked alone");
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    match (lengths, codings, hosts) {
        (2.., _, _) => Some("it has more than one Content-Length"),
        (_, 2.., _) => Some("it has more than one Transfer-Encoding"),
        (1, 1, _) => Some("it has both Content-Length and Transfer-Encoding"),
        (_, _, 2..) => Some("it has more than one Host"),
        (_, _, 0) if version == Version::HTTP_11 => Some("it has no Host"),
        _ => None,
    }
}

/// Judges any bytes as a head; one that passes has one reading for whoever takes a line feed for a line's end.
pub fn fuzz_head(data: &[u8]) {
    if fault(data, Version::HTTP_11).is_some() {
        return;
    }
    let text = String::from_utf8_lossy(data).to_ascii_lowercase();
    let text = text.trim_start_matches("\r\n");
    let starts = |name: &str| text.split('\n').skip(1).filter(|line| line.split(':').next() == Some(name)).count();
    assert!(data.iter().enumerate().all(|(at, &byte)| byte != b'\n' || (at > 0 && data[at - 1] == b'\r')));
    assert_eq!(starts("host"), 1);
    assert!(starts("content-length") + starts("transfer-encoding") <= 1, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unambiguous_heads_pass() {
        #[track_caller]
        fn check(headers: &str, expected: Option<&str>) {
            let raw = format!("GET / HTTP/1.1\r\n{headers}\r\n");
            assert_eq!(fault(raw.as_bytes(), Version::HTTP_11), expected, "{headers:?}");
        }
        check("Host: a\r\n", None);
        check("Host: a\r\nContent-Length: 5\r\n", None);
        check("Host: a\r\nTransfer-Encoding: Chunked \r\n", None);
        check("Host:a\r\nX:\r\n", None);
        check(
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Some("it has both Content-Length and Transfer-Encoding"),
        );
        check("Host: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n", Some("it has more than one Content-Length"));
        for length in ["5, 5", "+5", "0x5", "-1", "", "5 5"] {
            check(&format!("Host: a\r\nContent-Length: {length}\r\n"), Some("its Content-Length is not a number"));
        }
        for coding in ["gzip, chunked", "chunked, identity", "xchunked", "\"chunked\"", ""] {
            check(&format!("Host: a\r\nTransfer-Encoding: {coding}\r\n"), Some("its Transfer-Encoding is not chunked alone"));
        }
        check(
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Some("it has more than one Transfer-Encoding"),
        );
        check("Host: a\r\nTransfer-Encoding : chunked\r\n", Some("a header's name holds white space"));
        check("Host: a\r\nX: b\r\n\tc\r\n", Some("a header is folded"));
        check("Host: a\nX: b\r\n", Some("a line does not end in CR LF"));
        check("Host: a\r\nX: a\rb\r\n", Some("a line holds a control character"));
        check("Host: a\r\nno colon\r\n", Some("a header has no colon"));
        check("Host: a\r\nhost: b\r\n", Some("it has more than one Host"));
        check("X: a\r\n", Some("it has no Host"));
        assert_eq!(fault(b"GET / HTTP/1.1\nHost: a\r\n\r\n", Version::HTTP_11), Some("a line does not end in CR LF"));
        assert_eq!(fault(b"GET / HTTP/1.0\r\n\r\n", Version::HTTP_10), None);
        assert_eq!(fault(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Version::HTTP_11), None);
        for raw in ["", "\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n\n", "GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n"] {
            assert!(fault(raw.as_bytes(), Version::HTTP_11).is_some(), "{raw:?}");
        }
    }
}
