//! How the mirror says no: in the words and codes by which the Hub's clients choose their exception.

use super::escape::BadTarget;
use super::oid::Commit;
use super::path::FilePath;
use super::repo::RepoId;
use super::revision::Revision;
use http::HeaderMap;
use serde_json::json;

/// Header messages are cut to this many bytes; the JSON body has the whole text.
const HEADER_MESSAGE_MAX: usize = 500;

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubError {
    /// The HTTP status.
    pub status: u16,
    /// The value of `X-Error-Code`, which decides the client's exception.
    pub code: Option<&'static str>,
    /// Shown to the user by every client.
    pub message: String,
    /// The commit at which a file is known to be absent; lets clients remember the absence.
    pub commit: Option<Commit>,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u64>,
}

impl HubError {
    fn new(status: u16, code: Option<&'static str>, message: impl Into<String>) -> HubError {
        HubError { status, code, message: message.into(), commit: None, retry_after: None }
    }

    /// The repo does not exist, or the caller may not know of it. The Hub itself sends no code without a token, but over
    /// plain http clients then raise a nameless error, so the code is always set.
    pub fn repo_not_found(has_token: bool) -> HubError {
        let (status, message) = if has_token { (404, "Repository not found") } else { (401, "Invalid username or password.") };
        HubError::new(status, Some("RepoNotFound"), message)
    }

    /// Upstream does not know the token itself. This message, and no other, keeps clients from reading "no such repo".
    pub fn bad_token() -> HubError {
        HubError::new(401, None, "Invalid credentials in Authorization header")
    }

    /// The repo has no such branch, tag or commit.
    pub fn revision_not_found(revision: &Revision) -> HubError {
        HubError::new(404, Some("RevisionNotFound"), format!("Invalid rev id: {revision}"))
    }

    /// The revision has no such file.
    pub fn entry_not_found(commit: Option<Commit>) -> HubError {
        HubError { commit, ..HubError::new(404, Some("EntryNotFound"), "Entry not found") }
    }

    /// The revision has no such directory.
    pub fn directory_not_found(path: &FilePath, revision: &Revision) -> HubError {
        HubError::new(404, Some("EntryNotFound"), format!("{path} does not exist on \"{revision}\""))
    }

    /// The repo's owner wants to be asked for access first.
    pub fn gated(repo: &RepoId, has_token: bool) -> HubError {
        let (kind, name, page) = (repo.kind(), repo.name(), repo.url_path());
        if has_token {
            let message = format!(
                "Access to {kind} {name} is restricted and you are not in the authorized list. \
                 Visit https://huggingface.co{page} to ask for access."
            );
            return HubError::new(403, Some("GatedRepo"), message);
        }
        let message = format!(
            "Access to {kind} {name} is restricted. You must have access to it and be authenticated to access it. Please log in."
        );
        HubError::new(401, Some("GatedRepo"), message)
    }

    /// The Hub has switched the repo off. Clients know this answer by its exact words.
    pub fn disabled() -> HubError {
        HubError::new(403, None, "Access to this resource is disabled.")
    }

    /// The request would change the Hub. Clients print the message; a 401 or 404 would read as "no such repo".
    pub fn read_only_mirror() -> HubError {
        HubError::new(
            403,
            None,
            "this is a read-only mirror: send uploads and changes to the Hub itself (unset HF_ENDPOINT), or ask the mirror's \
             administrator to set upstream.writes to pass",
        )
    }

    /// git-lfs asks for what git does not hold itself.
    pub fn no_git_lfs(repo: &RepoId) -> HubError {
        let (kind, name) = (repo.kind(), repo.name());
        let message = format!(
            "this mirror serves no git-lfs: clone with GIT_LFS_SKIP_SMUDGE=1, then get the large files with \
             `hf download {name} --repo-type {kind} --local-dir .`"
        );
        HubError::new(403, None, message)
    }

    /// Buckets are only to be had over Xet.
    pub fn no_buckets() -> HubError {
        let message = "this mirror has no buckets, which are only to be had over Xet: unset HF_ENDPOINT for them";
        HubError::new(404, None, message)
    }

    /// The data set viewer is another service of the Hub's; `datasets` looks for it and does without.
    pub fn no_viewer() -> HubError {
        let message = "this mirror has no data set viewer: see https://datasets-server.huggingface.co; the Parquet files are \
                       in the revision refs/convert/parquet";
        HubError::new(404, None, message)
    }

    /// The operator of the mirror does not want the repo here: the configuration's `key` says so.
    pub fn against_rule(key: &str, repo: &str) -> HubError {
        let message = format!("this mirror does not serve {repo}: its {key} forbids it; ask the mirror's administrator");
        HubError::new(403, None, message)
    }

    /// The mirror itself refuses, for the reason given.
    pub fn forbidden(message: impl Into<String>) -> HubError {
        HubError::new(403, None, message)
    }

    /// The request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> HubError {
        HubError::new(400, None, message)
    }

    /// The mirror has no such page.
    pub fn no_such_page() -> HubError {
        HubError::new(
            404,
            None,
            "this mirror serves files and the API of the Hub and has no such page; see https://huggingface.co",
        )
    }

    /// The mirror is offline by configuration and keeps no answer to this question.
    pub fn offline() -> HubError {
        HubError::new(
            503,
            None,
            // Neither of the two: what is kept of closed repos is nobody else's business.
            "the mirror is offline and holds no copy of what was asked for that it may give to this caller; its administrator \
             can fetch it with `dingospeed pull` while online",
        )
    }

    /// Upstream cannot be reached; `detail` says what was tried.
    pub fn upstream_unavailable(detail: &str, retry_after: u64) -> HubError {
        let error = HubError::new(503, None, format!("the mirror cannot reach its upstream: {detail}"));
        HubError { retry_after: Some(retry_after), ..error }
    }

    /// Upstream answered with something that cannot be used.
    pub fn upstream_broken(detail: &str) -> HubError {
        HubError::new(502, None, format!("the mirror's upstream gave an unusable answer: {detail}"))
    }

    /// Upstream leads to where the mirror may not go. No client tries a 501 again: it will not pass by itself.
    pub fn upstream_forbidden(detail: &str) -> HubError {
        HubError::new(501, None, detail)
    }

    /// Upstream did not answer in time.
    pub fn upstream_timeout(detail: &str) -> HubError {
        HubError::new(504, None, format!("the mirror's upstream did not answer in time: {detail}"))
    }

    /// Upstream limits the mirror's rate, or the mirror its clients'.
    pub fn too_many_requests(retry_after: u64) -> HubError {
        HubError { retry_after: Some(retry_after), ..HubError::new(429, None, "too many requests: try again later") }
    }

    /// One client takes more than its share: more than `most` of what the configuration's `key` limits.
    pub fn limited(key: &str, most: u64, retry_after: u64) -> HubError {
        let message = format!("too much at a time from one client: the mirror's {key} is {most}; try again later");
        HubError { retry_after: Some(retry_after), ..HubError::new(429, None, message) }
    }

    /// All clients together have as many connections as the mirror can hold.
    pub fn crowded(most: u64, retry_after: u64) -> HubError {
        let message = format!("the mirror has no room for more connections: its server.connections is {most}; try again later");
        HubError { retry_after: Some(retry_after), ..HubError::new(503, None, message) }
    }

    /// What arrived is no request.
    pub fn unreadable() -> HubError {
        let message = "this is no HTTP/1.1 request: its first line, one of its headers or its framing cannot be read";
        HubError::new(400, None, message)
    }

    /// Somebody took the mirror for a proxy that tunnels.
    pub fn no_tunnel() -> HubError {
        HubError::new(405, None, "this mirror does not tunnel (CONNECT): point HF_ENDPOINT at it instead of HTTPS_PROXY")
    }

    /// Plain HTTP came in at the door for TLS.
    pub fn speaks_tls() -> HubError {
        HubError::new(400, None, "this port speaks TLS: write https:// in front of the mirror's address, as in HF_ENDPOINT")
    }

    /// The request's head did not arrive in time.
    pub fn head_too_slow() -> HubError {
        HubError::new(408, None, "the request's head took longer than server.head_timeout")
    }

    /// The request's body did not arrive in time.
    pub fn body_too_slow() -> HubError {
        HubError::new(408, None, "the request's body took too long")
    }

    /// The request's head is longer than the mirror reads.
    pub fn head_too_long(len_max: usize) -> HubError {
        HubError::new(431, None, format!("the request's head is longer than {len_max} bytes"))
    }

    /// The mirror failed; `detail` says at what.
    pub fn internal(detail: &str) -> HubError {
        HubError::new(500, None, format!("the mirror failed: {detail}"))
    }

    /// Whether the caller is told no, rather than of trouble.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status, 401 | 403 | 404)
    }

    /// Returns the headers that belong to this answer, without length and type. Every value is printable ASCII.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("X-Error-Message", header_safe(&self.message))];
        if let Some(code) = self.code {
            headers.push(("X-Error-Code", code.to_owned()));
        }
        if let Some(commit) = self.commit {
            headers.push(("X-Repo-Commit", commit.to_string()));
        }
        if let Some(seconds) = self.retry_after {
            headers.push(("Retry-After", seconds.to_string()));
        }
        if self.status == 401 {
            headers.push(("WWW-Authenticate", r#"Bearer realm="Authentication required", charset="UTF-8""#.to_owned()));
        }
        headers
    }

    /// Returns the body: `{"error":"<message>"}`, as `application/json; charset=utf-8`.
    pub fn body(&self) -> Vec<u8> {
        json!({ "error": self.message }).to_string().into_bytes()
    }
}

impl From<BadTarget> for HubError {
    fn from(bad: BadTarget) -> HubError {
        HubError::bad_request(bad.message)
    }
}

/// Whether an answer of upstream's is the Hub's own no, by its headers. A portal, a proxy or a firewall in between says 401, 403 and
/// 404 as well: that is trouble, neither to be believed nor to be told as if the Hub had said it.
pub fn is_hubs_no(status: u16, headers: &HeaderMap) -> bool {
    let has = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    (400..500).contains(&status) && !matches!(status, 407 | 408 | 429) && (has("x-error-code") || has("x-error-message"))
}

/// Makes a text fit for a header: control characters become spaces, what is not ASCII becomes `?`, the end is cut.
pub fn header_safe(text: &str) -> String {
    let safe = |letter: char| match letter {
        ' '..='~' => letter,
        letter if letter.is_control() => ' ',
        _ => '?',
    };
    let text: String = text.chars().map(safe).take(HEADER_MESSAGE_MAX).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RepoKind;

    #[test]
    fn the_words_are_the_hubs() {
        fn check(error: HubError, status: u16, code: Option<&str>, message: &str) {
            assert_eq!((error.status, error.code, error.message.as_str()), (status, code, message));
        }
        let model = RepoId::parse(RepoKind::Model, "o/m").unwrap();
        let dataset = RepoId::parse(RepoKind::Dataset, "o/d").unwrap();
        let revision = Revision::parse("nope").unwrap();
        check(HubError::repo_not_found(false), 401, Some("RepoNotFound"), "Invalid username or password.");
        check(HubError::repo_not_found(true), 404, Some("RepoNotFound"), "Repository not found");
        check(HubError::revision_not_found(&revision), 404, Some("RevisionNotFound"), "Invalid rev id: nope");
        check(HubError::entry_not_found(None), 404, Some("EntryNotFound"), "Entry not found");
        check(
            HubError::gated(&model, false),
            401,
            Some("GatedRepo"),
            "Access to model o/m is restricted. You must have access to it and be authenticated to access it. Please log in.",
        );
        check(
            HubError::gated(&dataset, true),
            403,
            Some("GatedRepo"),
            "Access to dataset o/d is restricted and you are not in the authorized list. Visit https://huggingface.co/datasets/o/d to ask for access.",
        );
        check(HubError::disabled(), 403, None, "Access to this resource is disabled.");
    }

    #[test]
    fn a_message_cannot_break_out_of_its_header() {
        let error = HubError::bad_request("a\r\nSet-Cookie: b\u{4e2d}\"".to_owned());
        assert_eq!(error.headers(), [("X-Error-Message", "a  Set-Cookie: b?\"".to_owned())]);
        assert_eq!(error.body(), "{\"error\":\"a\\r\\nSet-Cookie: b\u{4e2d}\\\"\"}".as_bytes());
        assert_eq!(header_safe(&"x".repeat(9000)).len(), HEADER_MESSAGE_MAX);
    }
}
