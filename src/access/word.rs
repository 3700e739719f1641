//! What upstream says of one caller and one repo, told apart from what anything in between may say.
//!
//! A yes opens what is kept, and a no is written down, so both must be upstream's own: the yes is the text `OK`, the no has the
//! Hub's headers. A portal's page, a firewall's refusal and a redirect to a login are neither.

use crate::hub::{ApiTarget, FilePath, HubError, RepoId, Revision, is_hubs_no, parse_info};
use crate::mirror::{Names, refused};
use crate::source::{Asking, Origin, Reply, SourceError, Token, deadline};
use http::Method;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a caller waits for upstream's word. What follows has its own time, and clients give up after 10 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// Silence says that upstream hangs only if it was waited for at least so many parts of the time there is for a word. A caller
/// can make questions that upstream is slow at, and leave no time for the last one.
const SILENCE_PARTS: u32 = 2;
/// A file that no repo has, and not of those that the Hub shows of gated repos to all.
const NO_FILE: &str = "dingospeed-access-check";

pub(super) enum Word {
    Yes,
    No(HubError),
    Trouble(Trouble),
}

/// Why upstream gave no word, and what a caller is told of it: never which repo was asked about, nor by which name.
#[derive(Clone)]
pub(super) struct Trouble {
    pub(super) cause: Cause,
    pub(super) error: HubError,
}

/// What kept upstream from a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is not there, hangs, answers 5xx, or is not to be asked.
    Absent,
    /// It limits (429), something in between answers in its place, or there was little time left for it. A caller can bring
    /// that about.
    Unclear,
}

/// Who is asked.
pub(super) struct Upstream {
    pub(super) origin: Arc<Origin>,
    pub(super) names: Arc<Names>,
    pub(super) offline: bool,
}

/// One question, which may take several requests.
#[derive(Clone, Copy)]
struct Question<'a> {
    repo: &'a RepoId,
    token: Option<&'a Token>,
    urgent: bool,
    end: Instant,
    /// Too short a time for silence to say anything.
    is_hurried: bool,
}

impl Upstream {
    /// Asks whether the caller may read the repo; without a token, whether anybody may. `urgent` when a yes stands ready that
    /// the answer may withdraw: see [`Asking::urgent`].
    pub(super) async fn ask(&self, repo: &RepoId, token: Option<&Token>, urgent: bool) -> Word {
        if self.offline {
            return Word::Trouble(Trouble { cause: Cause::Absent, error: HubError::offline() });
        }
        let time = PATIENCE.min(self.origin.question_timeout());
        let is_hurried = deadline::time_left() < time / SILENCE_PARTS;
        let question = Question { repo, token, urgent, end: Instant::now() + PATIENCE, is_hurried };
        let target = format!("{}/auth-check", repo.api_path());
        let reply = match self.asking(question).ask(&Method::GET, &target, token, None).await {
            Ok(reply) => reply,
            Err(limited @ SourceError::Busy { status: 429, .. }) => return self.ask_for_no_file(question, &limited).await,
            Err(error) => return trouble(&error, question),
        };
        self.names.learn(repo, &reply).await;
        let has_code = reply.headers.contains_key("x-error-code");
        match reply.status {
            200 if is_ok(&reply) => Word::Yes,
            // Some mirrors do not know that question, and say so with a page.
            200..=299 => self.ask_for_facts(question).await,
            404 if !has_code => self.ask_for_facts(question).await,
            _ => self.no(&reply),
        }
    }

    /// Which of all repos that ever had this name it is, as this caller may know: the Hub gives each an id. None if upstream tells
    /// of none; an error if it does not tell of the repo now.
    pub(super) async fn identity(&self, repo: &RepoId, token: Option<&Token>) -> Result<Option<String>, HubError> {
        // Not one that decides: a repo can be made so that the Hub is slow to tell of it, which proves nothing of others.
        let asking = self.origin.within(PATIENCE);
        let reply = asking.ask(&Method::GET, &repo.api_path(), token, None).await.map_err(|error| error.to_hub())?;
        let facts = parse_info(&reply.body).ok().filter(|_| reply.status == 200 && reply.authoritative);
        let unusable = || HubError::upstream_broken(&format!("{} does not tell which repo this is", self.origin.base()));
        facts.map(|facts| facts.identity).ok_or_else(unusable)
    }

    fn asking(&self, question: Question<'_>) -> Asking<'_> {
        let asking = self.origin.within(question.end.saturating_duration_since(Instant::now())).deciding();
        if question.urgent { asking.urgent() } else { asking }
    }

    /// Takes from what upstream says of the repo whether the caller may read it, unless it is gated: the facts of those are shown
    /// to all.
    async fn ask_for_facts(&self, question: Question<'_>) -> Word {
        let Question { repo, token, .. } = question;
        let reply = match self.asking(question).ask(&Method::GET, &repo.api_path(), token, None).await {
            Ok(reply) => reply,
            Err(error) => return trouble(&error, question),
        };
        let facts = parse_info(&reply.body).ok().filter(|facts| facts.id.is_some());
        let Some(facts) = facts.filter(|_| reply.status == 200 && reply.authoritative) else { return self.no(&reply) };
        let is_shown = token.is_some() || facts.private == Some(false);
        if facts.gated == Some(false) && !facts.disabled.unwrap_or(false) && is_shown {
            return Word::Yes;
        }
        let message = "the mirror's upstream cannot tell who may read this repo";
        Word::No(refused(403, Some("GatedRepo"), message, None))
    }

    /// Asks for a file that is not there, which the Hub counts as another kind of question than the one it would not answer. It
    /// looks at who asks before it looks for the file, so that its absence is a yes.
    async fn ask_for_no_file(&self, question: Question<'_>, limited: &SourceError) -> Word {
        let (Ok(main), Ok(path)) = (Revision::parse("main"), FilePath::parse(NO_FILE)) else { return trouble(limited, question) };
        let target = ApiTarget::resolve(question.repo, &main, &path).upstream_path_and_query();
        match self.asking(question).locate(&target, question.token).await {
            Ok(found) if found.authoritative => Word::Yes,
            Err(SourceError::Refused { code: Some(code), .. }) if matches!(&*code, "EntryNotFound" | "RevisionNotFound") => {
                Word::Yes
            }
            Err(no @ SourceError::Refused { .. }) => Word::No(no.to_hub()),
            _ => trouble(limited, question),
        }
    }

    /// Upstream's no, if it is upstream's.
    fn no(&self, reply: &Reply) -> Word {
        if !is_hubs_no(reply.status, &reply.headers) {
            let host = self.origin.base();
            let detail =
                format!("{host} answers {} in a way that is not the Hub's; is there a portal or a proxy between?", reply.status);
            return Word::Trouble(Trouble { cause: Cause::Unclear, error: HubError::upstream_broken(&detail) });
        }
        let text = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
        Word::No(refused(reply.status, text("x-error-code"), text("x-error-message").unwrap_or(""), None))
    }
}

fn trouble(error: &SourceError, question: Question<'_>) -> Word {
    let cause = match error {
        SourceError::Timeout { .. } if question.is_hurried => Cause::Unclear,
        SourceError::Busy { status, .. } if *status < 500 => Cause::Unclear,
        // Nonsense and a redirect elsewhere come from what stands between as well.
        SourceError::Forbidden { .. } | SourceError::Refused { .. } | SourceError::Broken { .. } => Cause::Unclear,
        _ => Cause::Absent,
    };
    let error = match error {
        // A fallback's no is not the Hub's.
        SourceError::Refused { host, status, .. } => HubError::upstream_broken(&format!("{host} answers {status}")),
        error => error.to_hub(),
    };
    Word::Trouble(Trouble { cause, error })
}

/// Whether it is the Hub's yes, and no page that is given to every question.
fn is_ok(reply: &Reply) -> bool {
    let is_page = reply.headers.get("content-type").and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("html"));
    !is_page && reply.body.trim_ascii() == b"OK"
}
