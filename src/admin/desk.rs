//! The serving side: takes orders and carries them out, a few at a time.

use super::{Activity, Answer, REQUEST_LEN_MAX, Request, SOCKET, Status, WireScope};
use crate::{
    hub::Oid,
    store::{PassOptions, Scope, Store, StoreError, Sweep},
};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Orders carried out at a time; further ones wait in the socket's queue.
const ORDERS_MAX: usize = 4;
/// How long one may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the system cannot give us a connection (no descriptors), the next try is so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How far an ordered pass goes.
const THOROUGH: PassOptions = PassOptions { coming_len: 0, sweep: Sweep::All };

/// An open socket. Dropping it removes its name.
#[derive(Debug)]
pub struct Desk {
    listener: UnixListener,
    path: PathBuf,
    store: Arc<Store>,
}

impl Desk {
    /// Opens the socket in the store's directory, replacing what a crash left there. Needs a runtime.
    pub fn open(store: Arc<Store>) -> io::Result<Desk> {
        let path = store.root().join(SOCKET);
        // Nobody may reach it before its mode is set, so it gets its name only then.
        let temp = store.root().join("tmp").join(SOCKET);
        let _ = fs::remove_file(&temp);
        let listener = within(&temp, |path| UnixListener::bind(path))?;
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temp, &path)?;
        Ok(Desk { listener, path, store })
    }

    /// Takes orders for ever; drop it to stop.
    pub async fn serve(self) {
        let seats = Arc::new(Semaphore::new(ORDERS_MAX));
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let store = self.store.clone();
                    tokio::spawn(async move {
                        let _seat = seat;
                        if let Err(error) = attend(store, stream).await {
                            log::info!("an order was broken off: {error}");
                        }
                    });
                }
                Err(error) => {
                    log::warn!("cannot take orders on {}: {error}", self.path.display());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn attend(store: Arc<Store>, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    timeout(PATIENCE, (&mut stream).take(REQUEST_LEN_MAX).read_line(&mut line)).await??;
    if line.is_empty() {
        // Somebody looked whether we are here.
        return Ok(());
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            log::info!("ordered {}", line.trim_end());
            tokio::task::spawn_blocking(move || execute(&store, &request)).await.map_err(io::Error::other)?
        }
        Err(error) => Answer::Refused(format!("this is no order: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    timeout(PATIENCE, stream.get_mut().write_all(&text)).await?
}

/// Carries out an order on a store of this process. BLOCKING.
pub fn execute(store: &Store, request: &Request) -> Answer {
    let done = match request {
        Request::Status => store.space().map(|(free_bytes, total_bytes)| {
            let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
            Answer::Status(Status { pid, version, kept_bytes: store.kept_len(), free_bytes, total_bytes })
        }),
        Request::Evict => store.pass(&THOROUGH).map(|pass| Answer::Evicted((&pass).into())),
        Request::WouldEvict => store.would_pass(&THOROUGH).map(|pass| Answer::WouldEvict((&pass).into())),
        Request::VerifyObject { oid } => match Oid::parse(oid) {
            Some(oid) => store.mend(&oid).map(|mended| Answer::Mended(mended.into())),
            None => return Answer::Refused(format!("`{oid}` names no object")),
        },
        Request::Remove { scopes } => match scopes.iter().map(WireScope::scope).collect::<Option<Vec<Scope>>>() {
            Some(scopes) => store.remove_repos(&scopes).map(|removal| Answer::Removed((&removal).into())),
            None => return Answer::Refused("a repo or commit is misspelt".to_owned()),
        },
        Request::TakeIn { file, oid } => match Oid::parse(oid) {
            Some(oid) => store.take_in(file, &oid).map(|new| Answer::TakenIn { new }),
            None => return Answer::Refused(format!("`{oid}` names no object")),
        },
        Request::Learn { file } => store.learn_staged(file).map(|()| Answer::Learned),
        Request::Activity => Ok(Answer::Activity(Activity::now())),
    };
    done.unwrap_or_else(|error: StoreError| Answer::Refused(error.to_string()))
}

/// Calls `open` with a path that fits into a socket's address, which holds about a hundred bytes: a longer one goes by way of
/// its directory's descriptor.
pub(super) fn within<T>(path: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    const ADDRESS_LEN_MAX: usize = 100;
    if path.as_os_str().len() <= ADDRESS_LEN_MAX {
        return open(path);
    }
    let dir = fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    open(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}
