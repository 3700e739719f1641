//! The certificate that clients are shown: read at the start, and again when the operator says so.

use crate::{config::Tls, metrics::metrics};
use pingora_core::listeners::tls::Acceptor;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinError;

/// How long reading the files anew may take; after that the old certificate stays, and whoever asks again is heard.
const RENEWAL_MAX: Duration = Duration::from_secs(30);

/// What is spoken over TLS. HTTP/2 would put all ranges of a client on one connection, which is slower, and no client of the Hub
/// needs it.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why a certificate cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.listen is set, so {0} must name a file")]
    Unnamed(&'static str),
    #[error("cannot read {key} = `{path}`: {source}")]
    Read { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{key} = `{path}` is no regular file, but a directory, a pipe or a device")]
    Irregular { key: &'static str, path: PathBuf },
    /// A disk that hangs, most likely one that is mounted from elsewhere.
    #[error("the files of tls.certificate and tls.key could not be read within {0:?}")]
    Late(Duration),
    #[error("{key} = `{path}` holds no {what} in PEM: {cause}")]
    Content { key: &'static str, path: PathBuf, what: &'static str, cause: String },
    #[error("the key in `{key}` does not belong to the certificate in `{certificate}`: {cause}")]
    Pair { certificate: PathBuf, key: PathBuf, cause: rustls::Error },
    #[error("the certificate in `{path}` ended {seconds} s ago: renew it")]
    Ended { path: PathBuf, seconds: u64 },
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
    #[error("reading the certificate broke off: {0}")]
    Broken(#[from] JoinError),
}

/// The certificate in use, with the files it came from.
#[derive(Debug)]
pub(super) struct Certificate {
    files: Tls,
    current: RwLock<Arc<CertifiedKey>>,
}

/// A certificate fresh from its files.
struct Read {
    key: CertifiedKey,
    /// Seconds since 1970.
    ends: i64,
}

impl Certificate {
    /// Reads the files. One that has ended is taken, with a warning: plain HTTP should not go down with it.
    pub(super) fn read(files: &Tls) -> Result<Arc<Certificate>, TlsError> {
        let read = Read::from(files)?;
        if let Err(error) = read.is_valid(&files.certificate) {
            log::warn!("{error}");
        }
        let current = RwLock::new(Arc::new(read.announced()));
        Ok(Arc::new(Certificate { files: files.clone(), current }))
    }

    /// Reads the files and keeps nothing of them. Returns a warning about one that has ended.
    pub(super) fn check(files: &Tls) -> Result<Option<String>, TlsError> {
        let read = Read::from(files)?;
        Ok(read.is_valid(&files.certificate).err().map(|error| error.to_string()))
    }

    /// Reads the files again; on an error the old certificate stays. Dropping the future leaves it too.
    pub(super) async fn renew(&self) -> Result<(), TlsError> {
        let files = self.files.clone();
        let read = within(RENEWAL_MAX, move || Read::from(&files)).await?;
        read.is_valid(&self.files.certificate)?;
        // What replaces it is whole in any case.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read.announced());
        Ok(())
    }

    /// Returns what makes connections secure by whichever certificate is in use then.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<Acceptor, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Acceptor::from_server_config(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Read {
    fn from(files: &Tls) -> Result<Read, TlsError> {
        let (certificate, key) = (&files.certificate, &files.key);
        let text = text_of("tls.certificate", certificate)?;
        let content = |cause: String| content("tls.certificate", certificate, "certificate", cause);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, pem::Error>>()
            .map_err(|error| content(error.to_string()))?;
        let first = chain.first().ok_or_else(|| content("there is no such section".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|error| content(error.to_string()))?;
        let ends = parsed.validity().not_after.timestamp();
        let private = PrivateKeyDer::from_pem_slice(&text_of("tls.key", key)?).map_err(|error| {
            // The cause says what sections were found, never what is in them.
            self::content("tls.key", key, "private key without a password", error.to_string())
        })?;
        let pair = |cause| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), cause };
        let key = CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(pair)?;
        Ok(Read { key, ends })
    }

    fn is_valid(&self, path: &Path) -> Result<(), TlsError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match now.checked_sub(u64::try_from(self.ends).unwrap_or(0)) {
            Some(seconds) => Err(TlsError::Ended { path: path.to_owned(), seconds }),
            None => Ok(()),
        }
    }

    fn announced(self) -> CertifiedKey {
        metrics().tls_certificate_ends.set(self.ends);
        self.key
    }
}

/// Does what may wait for a disk. What comes too late is dropped: the thread that waits for it changes nothing any more.
async fn within<T: Send + 'static>(
    time_max: Duration,
    read: impl FnOnce() -> Result<T, TlsError> + Send + 'static,
) -> Result<T, TlsError> {
    match tokio::time::timeout(time_max, tokio::task::spawn_blocking(read)).await {
        Ok(done) => done?,
        Err(_) => Err(TlsError::Late(time_max)),
    }
}

fn text_of(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    if path.as_os_str().is_empty() {
        return Err(TlsError::Unnamed(key));
    }
    let failed = |source| TlsError::Read { key, path: path.to_owned(), source };
    // A pipe would be waited for, for ever if nobody writes into it.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(TlsError::Irregular { key, path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn content(key: &'static str, path: &Path, what: &'static str, cause: String) -> TlsError {
    TlsError::Content { key, path: path.to_owned(), what, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::{fs, sync::mpsc};

    /// Writes a certificate that names `name`, and its key.
    fn issue(folder: &Path, name: &str, years: std::ops::Range<i32>) -> Tls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let files = Tls { listen: String::new(), certificate: folder.join("c.pem"), key: folder.join("k.pem") };
        fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn shown(certificate: &Certificate) -> Vec<u8> {
        certificate.current.read().unwrap().cert[0].to_vec()
    }

    #[tokio::test]
    async fn a_good_pair_replaces_the_old_one_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = issue(folder.path(), "one.test", 2020..2999);
        let certificate = Certificate::read(&files).unwrap();
        certificate.acceptor().unwrap();
        let first = shown(&certificate);
        issue(folder.path(), "two.test", 2020..2999);
        certificate.renew().await.unwrap();
        let second = shown(&certificate);
        assert_ne!(first, second);

        let key = fs::read(&files.key).unwrap();
        issue(folder.path(), "three.test", 2020..2999);
        fs::write(&files.key, key).unwrap();
        assert!(matches!(certificate.renew().await, Err(TlsError::Pair { .. })));
        issue(folder.path(), "four.test", 2019..2020);
        assert!(matches!(certificate.renew().await, Err(TlsError::Ended { .. })));
        fs::write(&files.key, "-----BEGIN NONSENSE-----\nAAAA\n-----END NONSENSE-----\n").unwrap();
        let told = certificate.renew().await.unwrap_err().to_string();
        assert!(told.contains("tls.key") && told.contains("k.pem") && !told.contains("AAAA"), "{told}");
        fs::write(&files.certificate, "").unwrap();
        assert!(matches!(certificate.renew().await, Err(TlsError::Content { .. })));
        fs::remove_file(&files.certificate).unwrap();
        assert!(matches!(certificate.renew().await, Err(TlsError::Read { .. })));
        assert_eq!(shown(&certificate), second);
    }

    #[test]
    fn one_that_has_ended_does_not_keep_the_mirror_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Certificate::read(&issue(folder.path(), "old.test", 2019..2020)).is_ok());
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let files = issue(folder.path(), "one.test", 2020..2999);
        let certificate = Certificate::read(&files).unwrap();
        let first = shown(&certificate);
        let (kept, pipe) = (fs::read(&files.certificate).unwrap(), files.certificate.to_str().unwrap());
        fs::remove_file(&files.certificate).unwrap();
        let made = std::process::Command::new("mkfifo").arg(pipe).status().unwrap();
        assert!(made.success());
        let told = certificate.renew().await.unwrap_err().to_string();
        assert!(told.contains("tls.certificate") && told.contains("no regular file"), "{told}");
        assert!(matches!(Certificate::read(&files), Err(TlsError::Irregular { .. })), "nor at the start");
        assert_eq!(shown(&certificate), first);
        fs::remove_file(&files.certificate).unwrap();
        fs::write(&files.certificate, kept).unwrap();
        certificate.renew().await.unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_given_up() {
        let (never, hangs) = mpsc::channel::<()>();
        let read = move || {
            let _ = hangs.recv();
            Ok(())
        };
        assert!(matches!(within(Duration::from_millis(1), read).await, Err(TlsError::Late(_))));
        drop(never);
        within(RENEWAL_MAX, || Ok(())).await.unwrap();
    }

    #[test]
    fn both_files_must_be_named() {
        let nothing = Tls { listen: String::new(), certificate: PathBuf::new(), key: PathBuf::new() };
        assert_eq!(
            Certificate::read(&nothing).unwrap_err().to_string(),
            "tls.listen is set, so tls.certificate must name a file"
        );
    }
}
