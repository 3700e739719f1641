//! An HTTP/1.1 client that hides nothing: it sends the bytes it is given, and tells a whole body from a cut one.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one read may take: a mirror that is silent for longer fails the test.
const READ_MAX: Duration = Duration::from_secs(60);
const HEAD_MAX: usize = 64 * 1024;

/// A whole answer, with its body in memory.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// What arrived; all of it only if `whole`.
    pub(crate) body: Vec<u8>,
    /// True if the body ended as its framing had promised, false if the connection ended first.
    pub(crate) whole: bool,
}

impl Response {
    /// Returns a header as text; of several of one name, the first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// What a body amounted to, for bodies too large to keep.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) status: u16,
    pub(crate) len: u64,
    pub(crate) sha256: String,
    pub(crate) whole: bool,
}

/// One connection. Answers are read in order, so requests may be pipelined; dropping it mid-body is a client that went away.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    body: Framing,
    ended_by_peer: bool,
}

/// What a connection runs over: TCP, or TLS over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where the body that is being read ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Done,
    Length(u64),
    /// Bytes left in the current chunk; zero before a chunk's first line.
    Chunked(u64),
    UntilClose,
}

/// Why there is no next piece: the connection ended inside the body.
#[derive(Debug)]
pub(crate) struct Cut;

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Connection {
        let stream =
            TcpStream::connect(address).await.unwrap_or_else(|error| panic!("connect to the mirror at {address}: {error}"));
        Connection::over(stream)
    }

    /// Speaks over whatever is open already.
    pub(crate) fn over(stream: impl Stream + 'static) -> Connection {
        Connection { stream: Box::new(stream), buffer: BytesMut::new(), body: Framing::Done, ended_by_peer: false }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the mirror reads what it is sent");
    }

    /// Sends a request without a body. The headers are whole lines, without their ends.
    pub(crate) async fn ask(&mut self, method: &str, target: &str, headers: &[&str]) {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: mirror.test\r\n");
        for line in headers {
            request.push_str(line);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        self.send(request).await;
    }

    /// Reads an answer's head. `None` if the connection ended before one came.
    pub(crate) async fn head(&mut self, method: &str) -> Option<(u16, HeaderMap)> {
        assert_eq!(self.body, Framing::Done, "the last body was not read");
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            assert!(self.buffer.len() < HEAD_MAX, "an answer's head has no end");
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "the connection was cut in an answer's head");
                return None;
            }
        };
        let head = self.buffer.split_to(end + 4);
        let (status, headers) = parse_head(&head[..end]);
        if (100..200).contains(&status) {
            return Box::pin(self.head(method)).await;
        }
        self.body = framing(method, status, &headers);
        Some((status, headers))
    }

    /// Reads the next piece of the body, `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            match self.body {
                Framing::Done => return Ok(None),
                Framing::Length(0) => self.body = Framing::Done,
                Framing::Chunked(0) => match self.chunk_len().await? {
                    0 => self.body = Framing::Done,
                    len => self.body = Framing::Chunked(len),
                },
                _ if self.buffer.is_empty() => {
                    if !self.fill().await {
                        let ends_here = self.body == Framing::UntilClose;
                        self.body = Framing::Done;
                        return if ends_here { Ok(None) } else { Err(Cut) };
                    }
                }
                Framing::UntilClose => return Ok(Some(self.buffer.split().freeze())),
                Framing::Length(left) => {
                    let piece = self.take(left);
                    self.body = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::Chunked(left) => {
                    let piece = self.take(left);
                    let left = left - piece.len() as u64;
                    if left == 0 {
                        self.line().await?;
                    }
                    self.body = Framing::Chunked(left);
                    return Ok(Some(piece));
                }
            }
        }
    }

    /// Reads a whole answer. Panics if there is none.
    pub(crate) async fn response(&mut self, method: &str) -> Response {
        let (status, headers) = self.head(method).await.expect("an answer before the connection ends");
        let mut body = Vec::new();
        let whole = loop {
            match self.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(Cut) => break false,
            }
        };
        Response { status, headers, body, whole }
    }

    /// Reads a whole answer and keeps its sum only.
    pub(crate) async fn sum(&mut self, method: &str) -> Sum {
        let (status, _) = self.head(method).await.expect("an answer before the connection ends");
        let (mut hash, mut len) = (Sha256::new(), 0);
        let whole = loop {
            match self.piece().await {
                Ok(Some(piece)) => {
                    hash.update(&piece);
                    len += piece.len() as u64;
                }
                Ok(None) => break true,
                Err(Cut) => break false,
            }
        };
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Sum { status, len, sha256, whole }
    }

    /// Reads this many bytes of a body, or less where it ends; returns how many.
    pub(crate) async fn read_body(&mut self, wanted: u64) -> u64 {
        let mut read = 0;
        while read < wanted {
            match self.piece().await {
                Ok(Some(piece)) => read += piece.len() as u64,
                Ok(None) | Err(Cut) => break,
            }
        }
        read
    }

    /// Reads the body to its end; true when that was not the promised one.
    pub(crate) async fn is_cut(&mut self) -> bool {
        loop {
            match self.piece().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(Cut) => return true,
            }
        }
    }

    /// Tells whether the mirror has closed this connection; waits for that or for the time to pass.
    pub(crate) async fn closes_within(&mut self, time: Duration) -> bool {
        self.ended_by_peer || matches!(tokio::time::timeout(time, self.fill()).await, Ok(false))
    }

    fn take(&mut self, at_most: u64) -> Bytes {
        let len = self.buffer.len().min(at_most as usize);
        self.buffer.split_to(len).freeze()
    }

    async fn chunk_len(&mut self) -> Result<u64, Cut> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let len = u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("`{line}` is no chunk length"));
        if len == 0 {
            // Trailers, of which there are none, and the empty line.
            while !self.line().await?.is_empty() {}
        }
        Ok(len)
    }

    async fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.advance(at + 2);
                return Ok(line);
            }
            if !self.fill().await {
                self.body = Framing::Done;
                return Err(Cut);
            }
        }
    }

    /// Reads more into the buffer; false once the connection has ended, cleanly or not.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        let read = tokio::time::timeout(READ_MAX, self.stream.read_buf(&mut self.buffer))
            .await
            .unwrap_or_else(|_| panic!("the mirror was silent for {READ_MAX:?}"));
        self.ended_by_peer = !matches!(read, Ok(1..));
        !self.ended_by_peer
    }
}

fn framing(method: &str, status: u16, headers: &HeaderMap) -> Framing {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if method == "HEAD" || status == 204 || status == 304 {
        Framing::Done
    } else if text("transfer-encoding").is_some_and(|codings| codings.contains("chunked")) {
        Framing::Chunked(0)
    } else if let Some(length) = text("content-length") {
        Framing::Length(length.parse().expect("content-length is a number"))
    } else {
        Framing::UntilClose
    }
}

fn parse_head(head: &[u8]) -> (u16, HeaderMap) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .unwrap_or_else(|| panic!("`{first}` is no status line"));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("`{line}` is no header"));
        let name: HeaderName = name.parse().expect("a header name");
        // Byte by byte, since names of files come as UTF-8 or Latin-1.
        let value = HeaderValue::from_bytes(value.trim().as_bytes()).expect("a header value");
        headers.append(name, value);
    }
    (status, headers)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
