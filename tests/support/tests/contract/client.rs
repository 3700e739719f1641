//! A client of a few lines that follows nothing and decodes nothing but chunks.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// False when the connection ended before the body did.
    pub(crate) whole: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn the(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Asks `http://host:port/path`; `headers` are lines of `name: value`.
pub(crate) async fn ask(method: &str, url: &str, headers: &[&str]) -> Reply {
    send(method, url, headers, b"").await
}

pub(crate) async fn get(url: &str) -> Reply {
    ask("GET", url, &[]).await
}

pub(crate) async fn head(url: &str) -> Reply {
    ask("HEAD", url, &[]).await
}

pub(crate) async fn send(method: &str, url: &str, headers: &[&str], body: &[u8]) -> Reply {
    try_send(method, url, headers, body).await.unwrap()
}

pub(crate) async fn try_send(method: &str, url: &str, headers: &[&str], body: &[u8]) -> std::io::Result<Reply> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let stream = TcpStream::connect(host).await?;
    let mut stream = BufReader::new(stream);
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        text += &format!("content-length: {}\r\n", body.len());
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut raw = Vec::new();
    let clean = stream.read_to_end(&mut raw).await.is_ok();
    parse(method, &raw, clean)
}

fn parse(method: &str, raw: &[u8], clean: bool) -> std::io::Result<Reply> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let text = String::from_utf8_lossy(&raw[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers: Vec<(String, String)> = lines.filter_map(pair).collect();
    let mut reply = Reply { status, headers, body: raw[end + 4..].to_vec(), whole: clean };
    if method == "HEAD" || status == 304 {
        assert!(reply.body.is_empty(), "a body where none may be");
    } else if reply.header("transfer-encoding") == Some("chunked") {
        (reply.body, reply.whole) = unchunked(&reply.body);
    } else if let Some(len) = reply.header("content-length") {
        reply.whole = reply.body.len() == len.parse::<usize>().unwrap();
    }
    Ok(reply)
}

fn unchunked(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = raw.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let len = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        raw = &raw[end + 2..];
        if len == 0 {
            return (body, true);
        }
        body.extend_from_slice(&raw[..len.min(raw.len())]);
        if raw.len() < len + 2 {
            return (body, false);
        }
        raw = &raw[len + 2..];
    }
}
