//! The panel: the page `/repos`, `/info`, and the JSON below `/-/` that the page and scripts use.
//!
//! | request | for | answer |
//! |---|---|---|
//! | `GET /repos` | all | the page |
//! | `GET /info` | all | who this is, and how much is kept |
//! | `GET /-/status` | all | clients, downloads under way, traffic, disk, upstream; addresses of clients for admins only |
//! | `GET /-/repos?search=&type=&sort=&order=&offset=&limit=` | all | what is kept, a page of it |
//! | `GET /-/repo?id=` | all | one repo and its revisions |
//! | `GET /-/files?id=&commit=&search=&offset=&limit=` | all | the files of one revision |
//! | `POST /-/remove` `{"repos":[..],"revision":..,"dry_run":..}` | admins | what went, or would |
//! | `POST /-/pin`, `/-/unpin` `{"repos":[..],"revision":..}` | admins | the pins |
//! | `POST /-/evict` `{"dry_run":..}` | admins | what the pass did, or would |
//! | `GET /-/pulls`, `/-/pulls?id=` | admins | pulls and how far they are |
//! | `POST /-/pulls` `{"repo":..,"revision":..,"include":[..],"exclude":[..],"token":..}` | admins | the pull that was begun |
//! | `POST /-/pulls/cancel` `{"id":..}` | admins | the pull, which keeps what it has fetched |
//!
//! Repos are written `models/org/name`. Whoever is no admin is told of repos that upstream calls open, and of others not even that
//! they are there. [`Guard`] says who is an admin. Names of fields are those of `dingospeed ls --format json`; times are seconds since
//! 1970. A refusal is `{"error": ".."}`, with the same text in `X-Error-Message`.
//!
//! The room knows HTTP only as the `http` crate has it: whole requests in, whole answers out. Enter by [`Panel::admit`], then
//! [`Panel::answer`].

mod ask;
mod guard;
mod page;
mod pulls;
mod shelf;
mod status;

pub use guard::Rights;

use crate::admin::{self, Answer, WireScope};
use crate::commands::inventory::{self, Peeks};
use crate::commands::keep::{Chosen, scopes};
use crate::commands::kept::Kept;
use crate::commands::ls::{Depth, json_of, json_of_file, json_of_repo};
use crate::commands::pull::Wanted;
use crate::config::Config;
use crate::hub::{HubError, RepoId, Revision};
use crate::limits::Limits;
use crate::mirror::Mirror;
use crate::store::{Pin, StoreError, View};
use ask::{Ask, AskedPull, Cancel, Evict, FilesWanted, Named, query, repo_of};
use bytes::Bytes;
use guard::{Guard, no};
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use pulls::{Order, Pulls};
use serde_json::{Value, json};
use shelf::Shelf;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};
use tokio::sync::Semaphore;

/// Rows of a page at most, and unless told.
const LIMIT_MAX: usize = 500;
const LIMIT: usize = 50;
/// Work of one kind that is done at a time; the rest waits, so that what anybody may ask takes no more of the disk than this.
const AT_ONCE_MAX: usize = 4;

/// By which listener a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Where the Hub's clients come.
    Main,
    /// `admin.listen`.
    Admin,
}

/// Answers people and scripts about the mirror, and does what admins say.
pub struct Panel {
    mirror: Arc<Mirror>,
    limits: Arc<Limits>,
    guard: Guard,
    shelf: Arc<Shelf>,
    pulls: Pulls,
    /// For what takes moments; for reading a repo from the disk, which may be large; and for admins' orders.
    light: Arc<Semaphore>,
    deep: Arc<Semaphore>,
    orders: Arc<Semaphore>,
    /// Where the main listener is.
    address: SocketAddr,
    began: Instant,
    began_at: SystemTime,
    is_ending: AtomicBool,
}

impl Panel {
    /// `address` is where the main listener is bound, `reachable` how this machine's own programs reach it.
    pub fn new(
        config: &Config,
        mirror: Arc<Mirror>,
        limits: Arc<Limits>,
        address: SocketAddr,
        reachable: SocketAddr,
    ) -> Arc<Panel> {
        Arc::new(Panel {
            guard: Guard::new(config),
            shelf: Shelf::new(mirror.clone()),
            pulls: Pulls::new(reachable, Kept::new(config)),
            light: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            deep: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            orders: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            mirror,
            limits,
            address,
            began: Instant::now(),
            began_at: SystemTime::now(),
            is_ending: AtomicBool::new(false),
        })
    }

    /// Says what the sender of this head may do, before its body is read; an error is the answer.
    pub fn admit<T>(&self, door: Door, request: &Request<T>) -> Result<Rights, HubError> {
        self.guard.admit(door, request)
    }

    /// Answers a request that was admitted. Dropping the future leaves what was ordered running.
    pub async fn answer(self: &Arc<Self>, door: Door, rights: Rights, request: Request<Bytes>) -> Response<Bytes> {
        match self.told(door, rights, &request).await {
            Ok(Told::Page) => page::response_of_page(),
            Ok(Told::Json(value)) => {
                let mut text = value.to_string();
                text.push('\n');
                response(200, "application/json", text.into())
            }
            Err(error) => Panel::refuse(&error),
        }
    }

    /// Says no.
    pub fn refuse(error: &HubError) -> Response<Bytes> {
        let mut response = response(error.status, "application/json", error.body().into());
        for (name, value) in error.headers() {
            // Made safe for headers by whom they are from.
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// Notes that the server has been told to end.
    pub fn announce_end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Tells whether the server has been told to end, so that who has another mirror should go there.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Ends what the panel runs: the server is about to end.
    pub fn close(&self) {
        self.pulls.close();
    }

    async fn told(self: &Arc<Self>, door: Door, rights: Rights, request: &Request<Bytes>) -> Result<Told, HubError> {
        let path = request.uri().path().trim_end_matches('/');
        let ask = Ask { query: query(request.uri().query().unwrap_or_default()), body: request.body() };
        let may_change = match (request.method(), path) {
            (&Method::GET | &Method::HEAD, _) => false,
            (&Method::POST, path) if path.starts_with("/-/") => true,
            _ => return Err(no(405, "use GET, or POST for what changes something")),
        };
        let is_admins = may_change || path == "/-/pulls";
        if is_admins && rights != Rights::Admin {
            return Err(self.guard.refusal());
        }
        let value = match (may_change, path) {
            (false, "" | "/repos") => return Ok(Told::Page),
            (false, "/info") => {
                let repo_count = self.shelf.snapshot().await.repo_count;
                self.info(repo_count)
            }
            (false, "/-/status") => {
                let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
                self.work(&self.light, move |panel| Ok(panel.status(door, rights, host.as_deref()))).await?
            }
            (false, "/-/repos") => self.repos(rights, &ask).await?,
            (false, "/-/repo") => {
                let id = ask.repo()?;
                self.work(&self.deep, move |panel| panel.repo(rights, &id)).await?
            }
            (false, "/-/files") => {
                let (id, files) = (ask.repo()?, FilesWanted::read(&ask)?);
                self.work(&self.deep, move |panel| panel.files(rights, &id, &files)).await?
            }
            (false, "/-/pulls") => match ask.number("id")? {
                None => json!({ "pulls": self.pulls.list() }),
                Some(id) => self.pulls.get(id as u64).ok_or_else(no_such_pull)?,
            },
            (true, "/-/pulls") => self.pull(ask.json()?)?,
            (true, "/-/pulls/cancel") => {
                let Cancel { id } = ask.json()?;
                self.pulls.cancel(id).ok_or_else(no_such_pull)?
            }
            (true, "/-/remove") => {
                let (chosen, dry_run) = ask.json::<Named>()?.chosen()?;
                self.work(&self.orders, move |panel| panel.remove(&chosen, dry_run)).await?
            }
            (true, "/-/pin" | "/-/unpin") => {
                let (lift, (chosen, _)) = (path == "/-/unpin", ask.json::<Named>()?.chosen()?);
                self.work(&self.orders, move |panel| panel.pin(&chosen, lift)).await?
            }
            (true, "/-/evict") => {
                let Evict { dry_run } = ask.json()?;
                self.work(&self.orders, move |panel| panel.evict(dry_run)).await?
            }
            (false, "/-/pulls/cancel" | "/-/remove" | "/-/pin" | "/-/unpin" | "/-/evict") => {
                return Err(no(405, "this changes something: use POST"));
            }
            (true, "/-/status" | "/-/repos" | "/-/repo" | "/-/files") => return Err(no(405, "this changes nothing: use GET")),
            _ => return Err(no(404, "the mirror's panel has no such page; see /repos")),
        };
        Ok(Told::Json(value))
    }

    /// Runs what may wait for the disk where that holds nobody up, a few at a time.
    async fn work(
        self: &Arc<Self>,
        seats: &Arc<Semaphore>,
        work: impl FnOnce(&Panel) -> Result<Value, HubError> + Send + 'static,
    ) -> Result<Value, HubError> {
        let seat = seats.clone().acquire_owned().await;
        let panel = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            work(&panel)
        });
        done.await.unwrap_or_else(|error| Err(HubError::internal(&error.to_string())))
    }

    fn view(&self) -> View {
        self.mirror.store.view()
    }

    /// Whether whoever asks may know that the repo is here. Blocks.
    fn may_know(&self, repo: &RepoId, rights: Rights) -> bool {
        rights == Rights::Admin || self.mirror.is_known_open(repo).unwrap_or(false)
    }

    async fn repos(self: &Arc<Self>, rights: Rights, ask: &Ask<'_>) -> Result<Value, HubError> {
        let wanted = ask.wanted(rights)?;
        let snapshot = self.shelf.snapshot().await;
        self.work(&self.light, move |panel| {
            let hits = |id: &RepoId| panel.mirror.hits_of(id).1;
            let (total, total_len, rows) = shelf::page(&snapshot.rows, &wanted, hits);
            // A repo may have been closed since the walk.
            let rows = rows.iter().filter(|row| panel.may_know(&row.id, rights));
            let repos: Vec<Value> = rows
                .map(|row| {
                    let mut value = json_of_repo(&row.id, row.pinned, &row.pins, &row.sum);
                    panel.add_reads(&mut value, &row.id);
                    value["revision_count"] = row.revision_count.into();
                    value["open"] = row.open.into();
                    value
                })
                .collect();
            Ok(json!({
                "repos": repos,
                "total": total,
                "total_bytes_on_disk": total_len,
                "offset": wanted.offset,
                // The first walk over the directory is not at its end: there are more than so many.
                "partial": snapshot.read_at.is_none(),
                // How many repos have been read, of how many; of closed repos not even that for others than admins.
                "read": (rights == Rights::Admin).then(|| json!([snapshot.rows.len(), snapshot.repo_count])),
                "as_of": snapshot.read_at.map(unix),
                "walks": snapshot.walk_count,
                "walk_seconds": snapshot.took.as_secs_f64(),
            }))
        })
        .await
    }

    fn repo(&self, rights: Rights, id: &RepoId) -> Result<Value, HubError> {
        let repo = self.kept(rights, id)?;
        let mut value = json_of(std::slice::from_ref(&repo), Depth::Revisions)[0].take();
        self.add_reads(&mut value, id);
        if let Some(revisions) = value["revisions"].as_array_mut() {
            // The one that people have a name for is the one they look for.
            revisions.sort_by_key(|revision| revision["refs"].as_array().is_none_or(Vec::is_empty));
        }
        Ok(value)
    }

    fn files(&self, rights: Rights, id: &RepoId, wanted: &FilesWanted) -> Result<Value, HubError> {
        let repo = self.kept(rights, id)?;
        let snapshot = repo.commits.iter().find(|snapshot| snapshot.commit == wanted.commit).ok_or_else(not_kept)?;
        let found: Vec<_> = snapshot.files.iter().filter(|file| file.path.to_lowercase().contains(&wanted.search)).collect();
        let part = found.iter().skip(wanted.offset).take(wanted.limit);
        let files: Vec<Value> = part.map(|file| json_of_file(file)).collect();
        Ok(json!({ "files": files, "total": found.len(), "offset": wanted.offset }))
    }

    /// Reads one repo from the disk, as it is now.
    fn kept(&self, rights: Rights, id: &RepoId) -> Result<inventory::Repo, HubError> {
        let view = self.view();
        if !self.may_know(id, rights) {
            return Err(not_kept());
        }
        let pins = view.pins().map_err(broken)?;
        let repo = inventory::repo(&view, id, &pins, &mut Peeks::new(&view)).map_err(broken)?;
        if repo.commits.is_empty() { Err(not_kept()) } else { Ok(repo) }
    }

    fn add_reads(&self, value: &mut Value, id: &RepoId) {
        let (reads, hits) = self.mirror.hits_of(id);
        value["reads"] = reads.into();
        value["hits"] = hits.into();
    }

    fn pull(self: &Arc<Self>, asked: AskedPull) -> Result<Value, HubError> {
        let repo = repo_of(&asked.repo)?;
        let revision = Revision::parse(asked.revision.as_deref().filter(|text| !text.is_empty()).unwrap_or("main"))?;
        let mut mistakes = Vec::new();
        let wanted = Wanted::new(&asked.include, &asked.exclude, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(HubError::bad_request(mistakes.join("; ")));
        }
        let token = asked.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let authorization = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let mut authorization =
            authorization.map_err(|_| HubError::bad_request("the token holds characters that no token has"))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let order = Order { repo, revision, include: asked.include, exclude: asked.exclude, authorization };
        let shelf = self.shelf.clone();
        let ended = move |repo: &RepoId| {
            let repo = repo.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn_blocking(move || shelf.look_at(&repo));
            }
        };
        self.pulls.start(order, wanted, ended)
    }

    fn remove(&self, chosen: &Chosen, dry_run: bool) -> Result<Value, HubError> {
        let view = self.view();
        let scopes = scopes(&view, chosen).map_err(|why| no(404, why))?;
        view.refuse_pinned(&scopes).map_err(|error| no(409, error.to_string()))?;
        if dry_run {
            let removal = view.removal(&scopes).map_err(broken)?;
            return Ok(json!({ "would_remove": admin::Removed::from(&removal) }));
        }
        let request = admin::Request::Remove { scopes: scopes.iter().map(WireScope::from).collect() };
        let answer = self.order(&request)?;
        chosen.named.iter().for_each(|(repo, _)| self.shelf.look_at(repo));
        Ok(answer)
    }

    fn evict(&self, dry_run: bool) -> Result<Value, HubError> {
        self.order(if dry_run { &admin::Request::WouldEvict } else { &admin::Request::Evict })
    }

    /// Has the admin's desk do it, as the command line would.
    fn order(&self, request: &admin::Request) -> Result<Value, HubError> {
        log::info!("ordered {}", json!(request));
        match admin::execute(&self.mirror.store, request) {
            Answer::Refused(why) => Err(no(409, why)),
            answer => Ok(json!(answer)),
        }
    }

    fn pin(&self, chosen: &Chosen, lift: bool) -> Result<Value, HubError> {
        let view = self.view();
        let pins: Vec<Pin> =
            chosen.named.iter().map(|(repo, revision)| Pin { repo: repo.clone(), revision: revision.clone() }).collect();
        let (add, remove) = if lift { (&[][..], &pins[..]) } else { (&pins[..], &[][..]) };
        view.change_pins(add, remove).map_err(broken)?;
        log::info!(
            "{} {}",
            if lift { "unpinned" } else { "pinned" },
            pins.iter().map(Pin::to_string).collect::<Vec<_>>().join(",")
        );
        // A look reads all pins: not for names of which nothing is here to be shown.
        let is_kept = |repo: &RepoId| view.commits(repo).map_or(true, |commits| !commits.is_empty());
        chosen.named.iter().filter(|(repo, _)| is_kept(repo)).for_each(|(repo, _)| self.shelf.look_at(repo));
        let kept = view.pins().map_err(broken)?;
        Ok(json!({ "pins": kept.iter().map(Pin::to_string).collect::<Vec<_>>() }))
    }
}

/// What is answered.
enum Told {
    Page,
    Json(Value),
}

fn not_kept() -> HubError {
    no(404, "nothing of it is kept here")
}

fn no_such_pull() -> HubError {
    no(404, "there is no pull of this number; those that ended long ago, or before the last start, are forgotten")
}

fn broken(error: StoreError) -> HubError {
    HubError::internal(&error.to_string())
}

/// Whole seconds since 1970.
fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An answer that no other page may use, frame or guess at.
fn response(status: u16, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
