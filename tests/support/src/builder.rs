//! What is set before a fake Hub starts: addresses, rates, page lengths.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::hub::FakeHub;
use crate::log::Log;
use crate::rules::Rules;
use crate::server::Port;
use crate::state::{Settings, Shared, State};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Sets what must be known before the start.
#[must_use]
pub struct Builder {
    hub: SocketAddr,
    cdn: SocketAddr,
    settings: Settings,
    tokens: BTreeSet<String>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { hub: ANY_PORT, cdn: ANY_PORT, settings: Settings::default(), tokens: BTreeSet::new() }
    }
}

impl Builder {
    /// Binds the Hub here instead of to a free port of 127.0.0.1.
    pub fn hub_address(mut self, address: SocketAddr) -> Builder {
        self.hub = address;
        self
    }

    /// Binds the CDN here instead of to a free port of 127.0.0.1.
    pub fn cdn_address(mut self, address: SocketAddr) -> Builder {
        self.cdn = address;
        self
    }

    /// Names the Hub by this in absolute links, as the real one does by its own; by default the bound address.
    pub fn public_url(mut self, url: &str) -> Builder {
        self.settings.public_url = Some(url.trim_end_matches('/').to_owned());
        self
    }

    /// Sets how many entries a page of a tree holds (1000), and an expanded one (50).
    pub fn page_len(mut self, plain: usize, expanded: usize) -> Builder {
        (self.settings.page_len, self.settings.expanded_page_len) = (plain.max(1), expanded.max(1));
        self
    }

    /// Sets how long signed CDN addresses live (1 h), in whole seconds; zero makes them stale at birth.
    pub fn signature_life(mut self, life: Duration) -> Builder {
        self.settings.signature_life = life;
        self
    }

    /// Delays every answer of both listeners.
    pub fn latency(mut self, latency: Duration) -> Builder {
        self.settings.latency = latency;
        self
    }

    /// Limits each CDN connection to this rate.
    pub fn cdn_rate(mut self, bytes_per_second: u64) -> Builder {
        self.settings.cdn_rate = Some(bytes_per_second.max(1));
        self
    }

    /// Leaves `X-Linked-Etag` off the 307 of small files, as recordings before September 2026 show.
    pub fn without_linked_etag_on_307(mut self) -> Builder {
        self.settings.linked_etag_on_307 = false;
        self
    }

    /// Hands out small files without a redirect and knows no `/api/resolve-cache`, as the Hub before that route and its mirrors.
    pub fn without_resolve_cache(mut self) -> Builder {
        self.settings.resolve_cache = false;
        self
    }

    /// Declares a valid token.
    pub fn token(mut self, token: &str) -> Builder {
        self.tokens.insert(token.to_owned());
        self
    }

    /// Binds and serves, on tasks of the current tokio runtime.
    pub async fn start(self) -> io::Result<FakeHub> {
        let ports = [Port::bind(self.hub)?, Port::bind(self.cdn)?];
        let state = State { tokens: self.tokens, signature_life: self.settings.signature_life, ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            settings: self.settings,
            hub_address: ports[0].address,
            cdn_address: ports[1].address,
            log: Arc::new(Log::new()),
            rules: Arc::new(Rules::default()),
            connections: Mutex::default(),
            gates: Mutex::default(),
            panics: Mutex::default(),
        });
        let hub = FakeHub { shared, ports };
        hub.listen()?;
        Ok(hub)
    }
}
