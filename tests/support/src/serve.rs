//! One request's way: logged, struck by what was planned, answered, sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::body::Sending;
use crate::content::Memory;
use crate::control;
use crate::log::{Call, Listener, Running};
use crate::respond::{Answer, Ask, decode};
use crate::rules::{Action, Reply, Subject};
use crate::server::Wire;
use crate::state::Shared;
use crate::{api, cdn};

const REQUEST_BODY_MAX: usize = 64 << 20;

pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: Listener,
    wire: Arc<Wire>,
    request: Request<Incoming>,
) -> Response<Sending> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, REQUEST_BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        // A body that broke off or is too large: the handlers see none, and the log shows none.
        Err(_) => Bytes::new(),
    };
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let authorization = parts.headers.get("authorization").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let token = authorization.as_deref().and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let caller = shared.state().caller(authorization.as_deref());
    let mut ask = Ask { method: parts.method, path, query, headers: parts.headers, body, caller };

    let is_control = listener == Listener::Hub && ask.path.starts_with("/__");
    let running = shared.log.open_unless(is_control, || Call {
        index: 0,
        listener,
        connection: wire.number,
        method: ask.method.to_string(),
        path: ask.path.clone(),
        query: ask.query.clone(),
        headers: ask.headers.clone(),
        body: ask.body.clone(),
        token,
        file: None,
        status: 0,
        body_bytes: 0,
        finished: false,
        took: Duration::ZERO,
    });
    let Some(running) = running else {
        let answer = control::answer(&shared, &ask);
        return sent(answer, &ask, &[], None, &wire, None);
    };

    let object = if listener == Listener::Cdn { cdn::object(&shared, &ask.path) } else { None };
    let file = object.as_ref().map(|object| object.file.clone()).unwrap_or_default();
    if !file.is_empty() {
        let _ = running.record.file.set(file.clone());
    }
    let text = format!("{} {} {file}", decode(&ask.path), decode(&ask.query));
    let (method, headers) = (ask.method.clone(), ask.headers.clone());
    let subject = Subject { listener, method: &method, headers: &headers, text: &text };

    if shared.settings.latency > Duration::ZERO {
        tokio::time::sleep(shared.settings.latency).await;
    }
    // Most requests of a benchmark meet no rules at all.
    let planned = !shared.rules.is_empty();
    let before = if planned { shared.rules.on_request(&subject) } else { Vec::new() };
    let mut instead = None;
    for action in before {
        match action {
            Action::Latency(time) => tokio::time::sleep(time).await,
            Action::HangBeforeHead => std::future::pending::<()>().await,
            Action::Hold(barrier) => barrier.pass().await,
            Action::IgnoreRange => drop(ask.headers.remove("range")),
            Action::Status { code, headers } => instead = Some(refusal(code, &headers)),
            Action::RedirectTo(url) => instead = Some(Answer::redirect(302, &url)),
            Action::RedirectLoop => instead = Some(Answer::redirect(307, &ask.target())),
            _ => {}
        }
    }
    let answer_all = shared.state().answer_all;
    let mut answer = match (answer_all, instead) {
        (Some(code), _) => refusal(code, &[]),
        (None, Some(instead)) => instead,
        (None, None) if listener == Listener::Hub => api::answer(&shared, &ask),
        (None, None) => cdn::answer(&shared, &ask, object),
    };
    let after = if planned {
        let reply = Reply {
            status: answer.status,
            headers: &answer.headers,
            start: answer.span.start,
            len: answer.span.end - answer.span.start,
        };
        shared.rules.on_reply(&subject, &reply)
    } else {
        Vec::new()
    };
    spoil_headers(&mut answer, &after);
    let rate = if listener == Listener::Cdn { shared.settings.cdn_rate } else { None };
    sent(answer, &ask, &after, rate, &wire, Some(running))
}

fn refusal(code: u16, headers: &[(String, String)]) -> Answer {
    let mut answer = Answer::plain(code, "text/plain; charset=utf-8", format!("{code} as planned\n"));
    for (name, value) in headers {
        answer.set(name, value);
    }
    answer
}

/// Makes the headers lie as planned.
fn spoil_headers(answer: &mut Answer, actions: &[Action]) {
    let value_of =
        |answer: &Answer, name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    for action in actions {
        match action {
            Action::ChangedEtag => {
                for name in ["etag", "x-linked-etag"] {
                    if let Some(value) = value_of(answer, name) {
                        answer.set(name, changed(&value));
                    }
                }
            }
            Action::WrongContentRange | Action::WrongTotal => {
                let Some((span, total)) = value_of(answer, "content-range").and_then(|value| parsed(&value)) else {
                    continue;
                };
                let (shift, more) = if matches!(action, Action::WrongTotal) { (0, 1) } else { (1, 0) };
                answer.set("content-range", format!("bytes {}-{}/{}", span.0 + shift, span.1 + shift, total + more));
            }
            _ => {}
        }
    }
}

fn changed(etag: &str) -> String {
    let turned = |c: char| match c {
        '0'..='8' | 'a'..='e' => char::from(c as u8 + 1),
        '9' => '0',
        'f' => 'a',
        other => other,
    };
    etag.chars().map(turned).collect()
}

fn parsed(content_range: &str) -> Option<((u64, u64), u64)> {
    let (span, total) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    Some(((first.parse().ok()?, last.parse().ok()?), total.parse().ok()?))
}

/// Puts the answer on its way; the length that is promised follows the plan, true or not.
fn sent(
    answer: Answer,
    ask: &Ask,
    actions: &[Action],
    rate: Option<u64>,
    wire: &Arc<Wire>,
    running: Option<Running>,
) -> Response<Sending> {
    let len = answer.span.end - answer.span.start;
    let mut promised = (!answer.is_chunked()).then_some(len);
    for action in actions {
        match action {
            Action::Short { chunked: true, .. } => promised = None,
            Action::Short { bytes, chunked: false } => promised = promised.map(|_| *bytes),
            Action::Longer(bytes) => promised = promised.map(|len| len + bytes),
            _ => {}
        }
    }
    let no_body = matches!(answer.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    if let Some(running) = &running {
        running.answered(answer.status.as_u16());
    }
    let (content, span) =
        if no_body || ask.method == Method::HEAD { (Memory::holding(Bytes::new()), 0..0) } else { (answer.content, answer.span) };
    let mut body = Sending::new(content, span, wire.clone(), running);
    body.plan(actions);
    if let Some(rate) = rate {
        body.pace(rate);
    }
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if let Some(len) = promised.filter(|_| !no_body) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    response
}
