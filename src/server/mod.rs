//! Builds the parts in the order in which they need each other, runs them, and ends them.
//!
//! Pingora brings the HTTP service; the runtime, the signals and the end are ours, instead of pingora's `Server`. That
//! one sleeps its whole grace period after SIGTERM even when nothing runs any more, keeps one thread pool per service,
//! and panics in a task, half a minute late, when the address is taken. What it does beyond that (daemons, handing
//! sockets to a successor) is the init system's work here. What is left of it is [`serve`], which fits on a screen.
//!
//! Enter by [`run`] to serve until a signal, or by [`mirror_for`] to find a mirror of a directory or start one.

mod drain;
mod keeper;
mod listen;
mod local;
mod notify;
mod tls;
mod webhook;

pub use keeper::limits;
pub use listen::reachable;
pub use local::{MirrorAt, mirror_for};

use crate::{
    admin::Desk,
    alarms,
    config::Config,
    journal,
    limits::Limits,
    mirror::{Mirror, warm_objects_max},
    panel::{Door, Panel},
    proxy::{Front, HubProxy},
    source::Hook,
    store::{Store, StoreError, StoreOptions},
};
use drain::Drained;
use listen::Socket;
use log::Level;
use notify::State;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service;
use std::{future::Future, io, net::SocketAddr, sync::Arc, thread, time::Duration};
use tls::Certificate;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Of each thread, taken as it is used. Without optimisation one request's futures, moved on their way to the heap, take more than
/// tokio's 2 MiB.
const STACK_LEN: usize = 4 << 20;
/// Idle connections to upstream kept for the next API call; block fetches have their own.
const UPSTREAM_IDLE_MAX: usize = 256;
/// Tries of one API call within one request; longer trouble is for the client to retry, who is told when.
const UPSTREAM_RETRIES_MAX: usize = 3;
/// Files open besides connections and objects: listening sockets, the lock, records being read or written.
const FILES_BESIDE: u64 = 128;
/// So many are served however few files may be open.
const CONNECTIONS_LEAST: u64 = 16;
/// After the drain, how long a write to disk that is under way may still take.
const DISK_END_MAX: Duration = Duration::from_secs(2);

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address is taken, not ours, or not there.
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Listen { address: String, source: io::Error, remedy: String },
    #[error(
        "the mirror that works in this directory (at {address}) asks {upstream}, not {named}: leave --upstream out, or use another \
         directory"
    )]
    OtherUpstream { address: SocketAddr, upstream: String, named: String },
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("cannot start threads or watch for signals: {0}")]
    System(#[from] io::Error),
    /// The accept loop has ended by itself, which is a fault of the program.
    #[error("the service that accepts connections has ended: {0}")]
    Stopped(String),
    /// Another process has the directory and has not said where it listens.
    #[error("{directory} is in use by another process, which does not say where it listens ({holder}); try again in a moment")]
    Silent { directory: String, holder: String },
}

/// How often the mirror lets go of what has been idle for long.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How a server that had started came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every running response was completed.
    Drained,
    /// `server.drain_timeout` passed first; so many connections were cut.
    Cut(u64),
    /// Told to end at once (SIGINT).
    AtOnce,
}

/// Serves until SIGTERM (goes on for `server.drain_delay`, then completes what runs, for `server.drain_timeout` at most) or SIGINT (ends
/// at once).
///
/// Blocks; needs the whole process, whose signals it takes. The start line goes to stderr once connections are accepted.
pub fn run(config: &Config) -> Result<Ended, ServeError> {
    raise_file_limit();
    survive_file_size_limit();
    // A command that fills the directory has no use for one that takes nothing; who serves has.
    let store = Arc::new(Store::open_to_serve(&config.store.repos, StoreOptions { block_size: config.store.block_size })?);
    let read_only = store.read_only().is_some();
    let socket = Socket::bind(&config.server.listen, "choose another with --listen ADDR:PORT (port 0 takes any free one)")?;
    let secure = Secure::open(config)?;
    let runtime = new_runtime(config)?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let certificate = secure.as_ref().map(|secure| secure.certificate.clone());
        if let Some(hook) = Hook::new(&config.upstream, config.alerts.webhook.expose())
            && let Some(raised) = alarms::listen()
        {
            tokio::spawn(webhook::tell(raised, hook));
        }
        tokio::spawn(reload(signal(SignalKind::hangup())?, certificate));
        let asked = async {
            terminate.recv().await;
            notify::tell(State::Stopping);
        };
        tokio::spawn(notify::keep_alive());
        tokio::select! {
            ended = serve(config, store, socket, secure, asked, |address, secure| {
                announce(config, address, secure, read_only);
                notify::tell(State::Ready);
            }) => ended,
            // Cuts a drain short as well.
            _ = interrupt.recv() => Ok(Ended::AtOnce),
        }
    });
    if matches!(ended, Ok(Ended::AtOnce)) {
        runtime.shutdown_background();
    } else {
        runtime.shutdown_timeout(DISK_END_MAX);
    }
    ended
}

/// Builds the parts and runs them until `stop` resolves; then drains. Calls `started` when connections are accepted.
async fn serve(
    config: &Config,
    store: Arc<Store>,
    socket: Socket,
    secure: Option<Secure>,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(SocketAddr, Option<SocketAddr>),
) -> Result<Ended, ServeError> {
    let address = socket.address();
    let mirror = Mirror::new(config, store.clone());
    keeper::introduce(config, &store, &mirror);
    let (tidied, counted) = (mirror.clone(), mirror.clone());
    let limits = Arc::new(Limits::new(&config.server));
    let panel = Panel::new(config, mirror.clone(), limits.clone(), address, reachable(address));
    let proxy = |door| HubProxy::new(config, mirror.clone(), limits.clone(), panel.clone(), door);
    let desk = pingora_proxy::http_proxy(&pingora_conf(), proxy(Door::Main));
    let admin_desk = pingora_proxy::http_proxy(&pingora_conf(), proxy(Door::Admin));
    let connections_max = connections_max(config);
    let admin_front = Front::new(Arc::new(admin_desk), limits.clone(), &config.server, connections_max);
    let front = Front::new(Arc::new(desk), limits.clone(), &config.server, connections_max);
    let connections = front.connections();
    let (stop_sender, shutdown) = watch::channel(false);

    // Dropped with everything in it when this function ends.
    let mut services = JoinSet::new();
    let mut secure_address = None;
    if let Some(Secure { socket, certificate }) = secure {
        secure_address = Some(socket.address());
        let front = front.with_tls(certificate.acceptor()?);
        services.spawn(socket.serve(Service::new("mirror by TLS".to_owned(), front), shutdown.clone()));
    }
    services.spawn(socket.serve(Service::new("mirror".to_owned(), front), shutdown.clone()));
    if !config.metrics.listen.is_empty() {
        let socket = Socket::bind(&config.metrics.listen, "choose another with --set metrics.listen=ADDR:PORT")?;
        services.spawn(socket.serve(pingora_prometheus::prometheus_http_service(), shutdown.clone()));
    }
    if !config.admin.listen.is_empty() {
        let socket = Socket::bind(&config.admin.listen, "choose another with --set admin.listen=ADDR:PORT")?;
        // Past the logger, like the start line: with port 0 this is where it can be learnt.
        let text = format!("dingospeed: the admin's page is at http://{}/", reachable(socket.address()));
        journal::say(Level::Info, &text);
        services.spawn(socket.serve(Service::new("admin".to_owned(), admin_front), shutdown));
    }
    // Dropped too; these two may end at any time.
    let mut services_aside = JoinSet::new();
    services_aside.spawn(async move {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            tidied.tidy();
        }
    });
    services_aside.spawn(keeper::watch(store.clone(), config.eviction.interval));
    services_aside.spawn(keeper::count(mirror.clone()));
    if !config.upstream.offline {
        let origin = mirror.origin.clone();
        services_aside.spawn(async move { origin.watch().await });
    }
    match Desk::open(store.clone()) {
        Ok(desk) => drop(services_aside.spawn(desk.serve())),
        Err(_) if store.read_only().is_some() => {}
        // Serving goes on; only commands beside it will have to wait for its end.
        Err(error) => log::warn!("takes no orders: cannot open admin.sock in {}: {error}", store.root().display()),
    }
    let note = serde_json::json!({ "pid": std::process::id(), "listen": address.to_string(), "upstream": config.upstream.url });
    if let Err(error) = store.note_holder(&note.to_string()) {
        log::warn!("commands beside this server will not find it: {error}");
    }
    started(address, secure_address);

    tokio::select! {
        () = stop => {}
        Some(ended) = services.join_next() => {
            let why = ended.err().map_or_else(|| "without an error".to_owned(), |error| error.to_string());
            return Err(ServeError::Stopped(why));
        }
    }
    // Whoever sends clients here looks at /readyz, and has so long to find them another mirror.
    panel.announce_end();
    tokio::time::sleep(config.server.drain_delay).await;
    services_aside.abort_all();
    panel.close();
    // Ends the accept loops, which close their sockets: from here on new connections are refused. Then each service closes
    // the connections on which no request runs.
    let _ = stop_sender.send(true);
    while services.join_next().await.is_some() {}
    let drained = drain::wait(&connections, config.server.drain_timeout).await;
    // A disk that hangs loses the times of the last minute's reads, and does not keep the process.
    let flush = tokio::task::spawn_blocking(move || {
        store.flush_reads();
        counted.save_hits();
        // For connections that were cut something may still be written.
        if drained == Drained::All {
            store.save_ledger();
        }
    });
    let _ = tokio::time::timeout(DISK_END_MAX, flush).await;
    Ok(match drained {
        Drained::All => Ended::Drained,
        Drained::TimedOut { open } => Ended::Cut(open),
    })
}

/// The second door, where the configuration wants one.
struct Secure {
    socket: Socket,
    certificate: Arc<Certificate>,
}

impl Secure {
    fn open(config: &Config) -> Result<Option<Secure>, ServeError> {
        if config.tls.listen.is_empty() {
            return Ok(None);
        }
        let certificate = Certificate::read(&config.tls)?;
        let socket = Socket::bind(&config.tls.listen, "choose another with --set tls.listen=ADDR:PORT")?;
        Ok(Some(Secure { socket, certificate }))
    }
}

/// Reads what a server of this configuration reads at its start beside the configuration: the certificate of `tls.listen`, and its key.
/// Returns a warning about what such a server would take nevertheless.
pub fn check(config: &Config) -> Result<Option<String>, ServeError> {
    if config.tls.listen.is_empty() { Ok(None) } else { Ok(Certificate::check(&config.tls)?) }
}

/// Reads anew what may be changed under a running server, at each SIGHUP. Without anything of the kind it is taken all the same, or it
/// would end the process.
async fn reload(mut hangups: Signal, certificate: Option<Arc<Certificate>>) {
    while hangups.recv().await.is_some() {
        notify::tell(State::Reloading);
        renew(certificate.clone()).await;
        notify::tell(State::Ready);
    }
}

async fn renew(certificate: Option<Arc<Certificate>>) {
    let Some(certificate) = certificate else {
        log::info!("SIGHUP: there is no tls.certificate to read again");
        return;
    };
    match certificate.renew().await {
        Ok(()) => log::info!("SIGHUP: tls.certificate was read again; new connections get it"),
        Err(error) => log::error!("SIGHUP: the old certificate stays, for the new one cannot be used: {error}"),
    }
}

fn open_store(config: &Config) -> Result<Arc<Store>, ServeError> {
    Ok(Arc::new(Store::open(&config.store.repos, StoreOptions { block_size: config.store.block_size })?))
}

fn new_runtime(config: &Config) -> Result<runtime::Runtime, ServeError> {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = usize::try_from(config.server.threads).ok().filter(|threads| *threads > 0).unwrap_or_else(cores);
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name("dingospeed").thread_stack_size(STACK_LEN);
    Ok(builder.enable_all().build()?)
}

/// Only what the proxy itself reads of pingora's configuration; threads and grace periods belong to its `Server`.
fn pingora_conf() -> Arc<ServerConf> {
    Arc::new(ServerConf {
        upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
        max_retries: UPSTREAM_RETRIES_MAX,
        ..ServerConf::default()
    })
}

/// Says on stderr, past the logger, that connections are accepted; scripts wait for this line.
fn announce(config: &Config, address: SocketAddr, secure: Option<SocketAddr>, read_only: bool) {
    let url = match config.server.public_url.as_str() {
        "" => format!("http://{}", reachable(address)),
        public => public.to_owned(),
    };
    let offline = if config.upstream.offline { " (offline)" } else { "" };
    let into = if read_only { "from read-only" } else { "into" };
    let everywhere = if address.ip().is_unspecified() { format!(", listening on {address}") } else { String::new() };
    let secure = secure.map(|address| format!(", TLS on {address}")).unwrap_or_default();
    let text = format!(
        "dingospeed {} mirrors {}{offline} {into} {}{everywhere}{secure}; point clients here: export HF_ENDPOINT={url}",
        env!("CARGO_PKG_VERSION"),
        config.upstream.url,
        config.store.repos.display()
    );
    journal::say(Level::Info, &text);
}

/// Where files may not grow beyond a size (`ulimit -f`), writing fails like on a full disk, instead of ending the process.
fn survive_file_size_limit() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Allows as many open files as the system lets us: each client is one, each fetch one, each object in use one.
fn raise_file_limit() {
    let Some(mut limit) = file_limit() else { return };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call takes a pointer to the struct above, which outlives it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        log::warn!("cannot raise the limit of open files: {}", io::Error::last_os_error());
    }
}

fn file_limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call takes a pointer to the struct above, which outlives it.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if !told {
        log::warn!("cannot read the limit of open files: {}", io::Error::last_os_error());
    }
    told.then_some(limit)
}

/// Returns how many clients may be connected before files could run out, when each of them reads another object.
fn connections_max(config: &Config) -> u64 {
    let limit = file_limit().map_or(u64::MAX, |limit| limit.rlim_cur);
    let others = FILES_BESIDE + UPSTREAM_IDLE_MAX as u64 + 2 * config.fetch.connections + warm_objects_max();
    let room = (limit.saturating_sub(others) / 2).max(CONNECTIONS_LEAST);
    if room < config.server.connections {
        log::info!("server.connections is {room} and not {}: only {limit} files may be open", config.server.connections);
    }
    room
}
