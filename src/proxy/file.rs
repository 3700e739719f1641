//! The file desk: who may have which file, as of which commit, and how what fails is told.

use super::{Ctx, HubProxy, Refusal, head_text, range, respond};
use crate::access::Admission;
use crate::hub::{FilePath, HubError, Oid, RangeAsk, RepoId, Revision, content_disposition, content_type, if_none_match};
use crate::mirror::{Asker, FileInfo, Mirror, Part};
use crate::source::Token;
use bytes::Bytes;
use http::{Method, header};
use pingora_core::protocols::http::conditional_filter::to_304;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

/// A file, and why this caller may read it.
pub(super) struct Found {
    pub(super) file: FileInfo,
    pub(super) admission: Admission,
    /// Under which upstream is asked for it: the caller's, or the operator's.
    pub(super) token: Option<Token>,
}

/// A client that is told to come back and not when.
const RETRY_AFTER: u64 = 5;

impl HubProxy {
    /// Finds a file by the name that was asked, as of what this client was told of the revision before.
    pub(super) async fn find(
        &self,
        session: &Session,
        ctx: &Ctx,
        name: RepoId,
        revision: Revision,
        path: FilePath,
        token: Option<&Token>,
    ) -> Result<Found, Refusal> {
        let mut repo = name;
        let mut admission = self.admit(&repo, &revision, &path, token).await?;
        // The question just asked may have taught that the name leads elsewhere. Who may read is for that repo to say.
        let present = self.mirror.known_name(&repo).await.map_err(HubError::into_refusal)?;
        if present != repo {
            repo = present;
            admission = self.admit(&repo, &revision, &path, token).await?;
        }
        let fingerprint = Token::fingerprint(token);
        let token = self.mirror.access.acting(&repo, admission, token);
        let asker = Asker { client: ctx.client.to_string(), fingerprint, repo, revision, path };
        let part = part(session.req_header());
        let file = self.mirror.file_for(&asker, part, token.as_ref(), admission).await.map_err(HubError::into_refusal)?;
        Ok(Found { file, admission, token })
    }

    /// Answers at once where nothing has to be waited for: heads, what the client has already, and what lies there in one piece.
    /// False leaves it to pingora's cache, on whose longer way a small file costs half as much again.
    pub(super) async fn answer_at_once(&self, session: &mut Session, ctx: &mut Ctx) -> pingora_core::Result<bool> {
        let Some(file) = &ctx.file else { return Ok(false) };
        let request = session.req_header();
        let mut head = head(file)?;
        let mut body = Bytes::new();
        if range::not_modified(request, file) {
            to_304(&mut head);
        } else if matches!(ctx.ask, RangeAsk::Many(_)) {
            return Ok(false);
        } else {
            if let Some(reader) = &mut ctx.reader {
                let Some(whole) = reader.take_whole() else { return Ok(false) };
                body = whole;
            }
            range::apply(&mut head, &ctx.ask, Some(file));
        }
        ctx.from = "object";
        name(&mut head, file, ctx.location.as_deref())?;
        respond::prepared(session, head, body).await.map(|()| true)
    }

    /// Answers with the pointer that git holds in the place of an LFS file. It follows from what is known of the file, so
    /// nothing is fetched and nothing kept.
    pub(super) async fn pointer(&self, session: &mut Session, file: &FileInfo) -> Result<(), Refusal> {
        let (text, oid): (String, Oid) = Mirror::pointer(file);
        let mut head = ResponseHeader::build(200, Some(10))?;
        head.insert_header("ETag", oid.etag())?;
        head.insert_header("X-Repo-Commit", file.commit.as_str())?;
        head.insert_header("Content-Disposition", content_disposition(file.path.file_name()))?;
        if if_none_match(head_text(session.req_header(), header::IF_NONE_MATCH), &oid.etag()) {
            head.set_status(304)?;
            respond::bare(session, head).await?;
            return Ok(());
        }
        head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
        respond::whole(session, head, text.into_bytes().into()).await?;
        Ok(())
    }
}

/// The head of a whole file; what belongs to the request and to the file's name is added on the way out.
pub(super) fn head(file: &FileInfo) -> pingora_core::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(200, Some(16))?;
    head.insert_header(header::CONTENT_LENGTH, file.size)?;
    head.insert_header(header::ETAG, file.oid.etag())?;
    head.insert_header(header::CONTENT_TYPE, content_type(file.path.as_str()))?;
    head.insert_header(header::ACCEPT_RANGES, "bytes")?;
    Ok(head)
}

/// Adds what the Hub tells of a file beside its bytes. `location` is where a layer is, for who takes that from the answer.
pub(super) fn name(head: &mut ResponseHeader, file: &FileInfo, location: Option<&str>) -> pingora_core::Result<()> {
    head.insert_header("X-Repo-Commit", file.commit.as_str())?;
    head.insert_header("X-Linked-Etag", file.oid.etag())?;
    head.insert_header("X-Linked-Size", file.size)?;
    if head.status == 304 {
        // Taken out with what only a body needs; clients look for it in any answer.
        head.insert_header(header::ACCEPT_RANGES, "bytes")?;
    }
    if let Some(location) = location {
        head.insert_header(header::LOCATION, location)?;
    }
    head.insert_header(header::CONTENT_DISPOSITION, content_disposition(file.path.file_name()))?;
    // As the Hub says it: no browser runs a stranger's file as if it were this mirror's own page.
    head.insert_header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox")?;
    respond::add_cors(head)
}

/// What part of a file is asked for, as far as that can be told without its size.
fn part(request: &RequestHeader) -> Part {
    if request.method == Method::HEAD {
        return Part::Head;
    }
    let Some(range) = head_text(request, header::RANGE).and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    match range.strip_suffix('-').map(str::parse::<u64>) {
        Some(Ok(0)) => Part::Whole,
        Some(Ok(_)) => Part::Rest,
        _ => Part::Range,
    }
}

/// Says trouble so that this client tries again. Of a GET of a file, huggingface_hub 0.31 to 0.34 and from 1.0 on retries a 429
/// (waiting as long as it is told) and gives up at once on a 5xx; 0.35 and 0.36 do the opposite, of a HEAD too. Others are told
/// the truth. A HEAD is never turned into a 429: on a 5xx, those who have a copy use it at once. Trouble that will not pass,
/// such as being offline, is told to all as it is.
pub(super) fn told_to(mut error: HubError, method: &Method, user_agent: Option<&str>) -> HubError {
    let Some(version) = user_agent.and_then(hub_version) else { return error };
    let is_5xx_retried = ((0, 35)..(1, 0)).contains(&version);
    let is_429_retried = (0, 31) <= version && !is_5xx_retried && *method == Method::GET;
    let passes = match error.status {
        502 | 504 => true,
        503 => error.retry_after.is_some(),
        _ => false,
    };
    let status = match error.status {
        429 if is_5xx_retried => 503,
        _ if passes && is_429_retried => 429,
        _ => return error,
    };
    error.status = status;
    error.retry_after = Some(error.retry_after.unwrap_or(RETRY_AFTER));
    error
}

/// The release in `unknown/None; hf_hub/1.33.0; python/3.11.7`.
fn hub_version(user_agent: &str) -> Option<(u32, u32)> {
    let version = user_agent.split("hf_hub/").nth(1)?;
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_in_the_word_that_a_client_retries() {
        #[track_caller]
        fn check(error: HubError, user_agent: &str, status: u16, retry_after: Option<u64>) {
            let told = told_to(error, &Method::GET, Some(user_agent));
            assert_eq!((told.status, told.retry_after), (status, retry_after), "{user_agent}");
        }
        let down = || HubError::upstream_unavailable("x", 10);
        for (version, status) in
            [("0.25.2", 503), ("0.30.2", 503), ("0.31.0", 429), ("0.34.6", 429), ("0.35.3", 503), ("0.36.2", 503)]
        {
            check(down(), &format!("unknown/None; hf_hub/{version}; python/3.11"), status, Some(10));
        }
        for version in ["1.0.1", "1.33.0", "2.4.0", "1.31.0.dev0"] {
            check(down(), &format!("hf/None; hf_hub/{version}"), 429, Some(10));
            check(HubError::upstream_timeout("x"), &format!("hf_hub/{version}"), 429, Some(RETRY_AFTER));
            check(HubError::upstream_broken("x"), &format!("hf_hub/{version}"), 429, Some(RETRY_AFTER));
            check(HubError::offline(), &format!("hf_hub/{version}"), 503, None);
            check(HubError::entry_not_found(None), &format!("hf_hub/{version}"), 404, None);
            check(HubError::internal("x"), &format!("hf_hub/{version}"), 500, None);
        }
        for version in ["0.35.3", "0.36.2"] {
            check(HubError::too_many_requests(7), &format!("hf_hub/{version}"), 503, Some(7));
            check(HubError::limited("limits.requests", 3, 5), &format!("hf_hub/{version}"), 503, Some(5));
        }
        for (version, status) in [("0.30.2", 429), ("0.34.6", 429), ("0.36.2", 503), ("1.0.1", 429), ("1.33.0", 429)] {
            let told = told_to(HubError::too_many_requests(7), &Method::HEAD, Some(&format!("hf_hub/{version}")));
            assert_eq!((told.status, told.retry_after), (status, Some(7)), "{version}");
            let told = told_to(down(), &Method::HEAD, Some(&format!("hf_hub/{version}")));
            assert_eq!(told.status, 503, "{version}");
        }
        for other in ["curl/8.5", "hf_hub/", "hf_hub/x.y", ""] {
            check(down(), other, 503, Some(10));
        }
    }

    #[test]
    fn the_part_is_told_by_method_and_range() {
        #[track_caller]
        fn check(method: Method, range: Option<&str>, expected: Part) {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            if let Some(range) = range {
                request.insert_header("Range", range).unwrap();
            }
            assert_eq!(part(&request), expected, "{range:?}");
        }
        check(Method::HEAD, None, Part::Head);
        check(Method::GET, None, Part::Whole);
        check(Method::GET, Some("bytes=0-"), Part::Whole);
        check(Method::GET, Some("bytes=7-"), Part::Rest);
        check(Method::GET, Some("bytes=0-0"), Part::Range);
        check(Method::GET, Some("bytes=-5"), Part::Range);
        check(Method::GET, Some("bytes=0-1,5-6"), Part::Range);
    }
}
