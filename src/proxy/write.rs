//! What would change the Hub: refused, or passed on as it is where the operator wants that. And git's own reads, which are always
//! passed on: nothing of them is kept, and upstream sees who asks.
//!
//! This is the one way on which a client's request itself goes upstream, by pingora's own proxying: bodies stream both ways
//! with a few buffers between, however long they are. The client's token goes to `upstream.url` and nowhere else. Nothing is
//! ever sent twice, since nobody knows whether the first time had an effect.

use super::{HubProxy, RETRY_AFTER, Refusal, respond};
use crate::config::Writes;
use crate::hub::{HubError, rewrite};
use http::{Uri, header};
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::time::Duration;

/// How long the Hub may take to answer: it makes commits of thousands of files within one request.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(300);
/// Headers that are about one connection, or for the mirror only: a cookie is of whoever shares its address.
const OWN_HEADERS: [&str; 8] =
    ["connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade", "accept-encoding", "cookie"];

impl HubProxy {
    /// Lets a write pass, or says why not.
    pub(super) fn may_write(&self) -> Result<(), Refusal> {
        let upstream = &self.mirror.config.upstream;
        match upstream.writes {
            Writes::Refuse => Err(HubError::read_only_mirror().into_refusal()),
            Writes::Pass => self.may_pass(),
        }
    }

    /// Lets a request go upstream as it is, unless there is no upstream, or it is known to be down.
    pub(super) fn may_pass(&self) -> Result<(), Refusal> {
        let (upstream, origin) = (&self.mirror.config.upstream, &self.mirror.origin);
        if upstream.offline {
            return Err(HubError::offline().into_refusal());
        }
        if origin.is_gone() {
            let detail = format!("{} is down, and this is passed on to it", origin.base());
            return Err(HubError::upstream_unavailable(&detail, RETRY_AFTER).into_refusal());
        }
        Ok(())
    }

    pub(super) fn write_peer(&self) -> HttpPeer {
        let (mut peer, _) = self.mirror.origin.peer();
        peer.options.read_timeout = Some(ANSWER_WAIT_MAX);
        peer.options.write_timeout = Some(ANSWER_WAIT_MAX);
        peer
    }

    /// Turns the client's head into one for upstream.
    pub(super) fn write_head(&self, request: &mut RequestHeader) -> Result<()> {
        let (_, host) = self.mirror.origin.peer();
        for name in OWN_HEADERS {
            request.remove_header(name);
        }
        request.insert_header("Host", host)?;
        // A compressed answer could not be told from another when it is looked into.
        request.insert_header("Accept-Encoding", "identity")?;
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        if let Ok(uri) = target.parse::<Uri>() {
            request.set_uri(uri);
        }
        Ok(())
    }

    /// Keeps upstream's answer from leading the client, and its token, past the mirror.
    pub(super) fn write_answer(&self, session: &Session, answer: &mut ResponseHeader) -> Result<()> {
        let base = respond::base(session, &self.public_url);
        let upstream = self.mirror.origin.base();
        let bases = [upstream.as_str(), "https://huggingface.co"];
        if let Some(location) = answer.remove_header(&header::LOCATION)
            && let Some(location) = location.to_str().ok().and_then(|text| rewrite::location_header(text, &bases, &base))
        {
            answer.insert_header("Location", location)?;
        }
        if let Some(link) = answer.remove_header(&header::LINK)
            && let Some(link) = link.to_str().ok().and_then(|text| rewrite::link_header(text, &bases, &base))
        {
            answer.insert_header("Link", link)?;
        }
        answer.remove_header("set-cookie");
        respond::add_cors(answer)
    }
}
