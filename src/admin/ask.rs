//! The asking side: a store of our own when it is free, else the process that has it.

use super::{Answer, REQUEST_LEN_MAX, Request, SOCKET, desk::within, execute};
use crate::store::{Limits, Store, StoreError, StoreOptions};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// A server that starts has the lock a moment before it takes orders, and a command that ends has it a moment longer.
const TRIES: u32 = 15;
const MOMENT: Duration = Duration::from_millis(200);
/// Examining the largest object takes minutes; after this the server is as good as gone.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Who has the store does not take orders: another command, or a server without its socket.
    #[error("{0}; it takes no orders, try again when it has ended")]
    Silent(StoreError),
    #[error("the server that has the store broke off: {0}")]
    Broken(io::Error),
    #[error("the server that has the store takes orders from its own user and root only")]
    Foreign,
    /// The order was understood and not carried out.
    #[error("{0}")]
    Refused(String),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        if error.kind() == io::ErrorKind::PermissionDenied { AskError::Foreign } else { AskError::Broken(error) }
    }
}

/// Who carries out what changes a store.
#[derive(Debug)]
pub enum Keeper {
    /// This process, which holds the store's lock as long as this lives.
    Here(Box<Store>),
    /// The process behind this socket.
    There(PathBuf),
}

impl Keeper {
    /// Takes the store in `root` if it is free, else finds the server that has it. Blocks, for three seconds at most.
    ///
    /// `limits` are for a store of our own; a server has those of its configuration.
    pub fn find(root: &Path, options: StoreOptions, limits: Limits) -> Result<Keeper, AskError> {
        let mut tries = 0;
        loop {
            match Store::open(root, options.clone()) {
                Ok(store) => {
                    store.set_limits(limits);
                    return Ok(Keeper::Here(Box::new(store)));
                }
                Err(error @ StoreError::Locked { .. }) => {
                    let socket = root.join(SOCKET);
                    if within(&socket, |path| UnixStream::connect(path)).is_ok() {
                        return Ok(Keeper::There(socket));
                    }
                    tries += 1;
                    if tries >= TRIES {
                        return Err(AskError::Silent(error));
                    }
                    thread::sleep(MOMENT);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has an order carried out. Blocks until it is.
    pub fn order(&self, request: &Request) -> Result<Answer, AskError> {
        let answer = match self {
            Keeper::Here(store) => execute(store, request),
            Keeper::There(socket) => talk(socket, request)?,
        };
        match answer {
            Answer::Refused(why) => Err(AskError::Refused(why)),
            answer => Ok(answer),
        }
    }
}

/// Asks the server that has the store in `root`, if one does. Blocks.
pub fn ask(root: &Path, request: &Request) -> Result<Answer, AskError> {
    Ok(talk(&root.join(SOCKET), request)?)
}

fn talk(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = within(socket, |path| UnixStream::connect(path))?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    if text.len() as u64 > REQUEST_LEN_MAX {
        return Err(io::Error::other("too much for one order: name fewer repos"));
    }
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).take(REQUEST_LEN_MAX).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Desk, MendedObject, WireScope};
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

    fn open(root: &Path) -> Result<Store, StoreError> {
        Store::open(root, StoreOptions { block_size: 1 << 20 })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_carries_out_orders_for_others() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than a socket's address may be.
        let root = folder.path().join("r".repeat(120));
        let store = Arc::new(open(&root).unwrap());
        let desk = tokio::spawn(Desk::open(store.clone()).unwrap().serve());
        let socket = root.join(SOCKET);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let asked = root.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let keeper = Keeper::find(&asked, StoreOptions { block_size: 1 << 20 }, Limits::default()).unwrap();
            assert!(matches!(&keeper, Keeper::There(_)));
            let status = keeper.order(&Request::Status).unwrap();
            assert!(matches!(status, Answer::Status(status) if status.pid == std::process::id()));
            assert!(matches!(keeper.order(&Request::Evict).unwrap(), Answer::Evicted(_)));
            let oid = "0".repeat(64);
            let mended = keeper.order(&Request::VerifyObject { oid }).unwrap();
            assert_eq!(mended, Answer::Mended(MendedObject::Sound));
            let scopes = vec![WireScope { repo: "models/../x".to_owned(), commit: None }];
            assert!(matches!(keeper.order(&Request::Remove { scopes }), Err(AskError::Refused(_))));
        });
        asking.await.unwrap();
        let nonsense = tokio::task::spawn_blocking(move || {
            let mut stream = within(&socket, |path| UnixStream::connect(path)).unwrap();
            stream.write_all(b"{\"verb\":\"dance\"}\n").unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            said
        });
        assert!(nonsense.await.unwrap().contains("refused"));
        desk.abort();
        let _ = desk.await;
        assert!(!root.join(SOCKET).exists());
    }

    #[test]
    fn a_free_store_is_taken_and_a_dead_socket_is_no_server() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()).unwrap());
        drop(std::os::unix::net::UnixListener::bind(root.path().join(SOCKET)).unwrap());
        let keeper = Keeper::find(root.path(), StoreOptions { block_size: 1 << 20 }, Limits::default()).unwrap();
        assert!(matches!(&keeper, Keeper::Here(_)));
        assert!(matches!(keeper.order(&Request::Evict).unwrap(), Answer::Evicted(_)));
        let second = Keeper::find(root.path(), StoreOptions { block_size: 1 << 20 }, Limits::default());
        assert!(matches!(second, Err(AskError::Silent(_))));
    }
}
