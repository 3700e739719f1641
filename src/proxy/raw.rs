//! Refusals for connections that never become an HTTP session of pingora's.

use crate::hub::HubError;
use std::fmt::Write;

/// Writes a whole answer that ends the connection.
pub(super) fn answer(error: &HubError) -> Vec<u8> {
    let status = http::StatusCode::from_u16(error.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let body = error.body();
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    for (name, value) in error.headers() {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(
        head,
        "Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = head.into_bytes();
    answer.extend_from_slice(&body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole() {
        let text = String::from_utf8(answer(&HubError::limited("server.connections", 7, 5))).unwrap();
        assert!(text.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        for line in ["Retry-After: 5", "Connection: close", &format!("Content-Length: {}", body.len())] {
            assert!(head.lines().any(|found| found == line), "{line} is missing in:\n{head}");
        }
        assert!(head.contains("X-Error-Message: ") && body.contains("server.connections"), "{text}");
    }
}
