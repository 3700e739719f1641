//! TLS for clients: the Hub's own ones with a private CA, a certificate that is replaced under way, and what is no TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fake_hub::{FakeHub, Memory, noise, sha256_of};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{Connection, Mirror, MirrorOptions, Python, dingospeed};

const FILE: &str = "/acme/large/resolve/main/w.bin";

/// A certificate authority of its own, as a site without a public one has it, and the files of the server it vouches for.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let folder = TempDir::new().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Not the library's default, or it would have the same name as those it issues to.
        params.distinguished_name.push(DnType::CommonName, "the lab's authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a written file");
        let authority = Authority { folder, issuer };
        authority.issue();
        authority
    }

    /// Writes a new certificate and key over the old ones; returns the certificate.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("legal names");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.certificate(), certificate.pem()).expect("a written file");
        std::fs::write(self.key(), key.serialize_pem()).expect("a written file");
        certificate.der().clone()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    fn mirror(&self, hub: &FakeHub) -> MirrorOptions {
        Mirror::of(hub)
            .set("tls.listen", "127.0.0.1:0")
            .set("tls.certificate", self.certificate().display())
            .set("tls.key", self.key().display())
    }

    async fn connect(&self, mirror: &Mirror) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path()).expect("the CA's file")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.expect("TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
        let socket = TcpStream::connect(address(mirror)).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("a handshake")
    }
}

/// Where the mirror speaks TLS, by its start line.
fn address(mirror: &Mirror) -> SocketAddr {
    let log = mirror.log();
    let said = log.lines().filter_map(|line| line.split_once(", TLS on ")).next_back().expect("a start line with TLS").1;
    said.split(';').next().and_then(|text| text.parse().ok()).expect("an address")
}

/// The certificate that a connection was shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

async fn hub_with_files() -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::start().await;
    let bytes = noise(71, (9 << 20) + 77).to_vec();
    hub.model("acme/large").file("config.json", "{}").lfs("w.bin", &bytes).file("empty.txt", "").commit("first");
    (hub, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_clients_download_by_tls_with_a_private_ca() {
    let (hub, bytes) = hub_with_files().await;
    let authority = Authority::new();
    let mirror = authority.mirror(&hub).start().await;
    let url = format!("https://localhost:{}", address(&mirror).port());
    let folder = TempDir::new().expect("a temporary directory");
    let ca = authority.path().display().to_string();
    for venv in ["hub-0.36.2", "hub-1.33.0", "hub-2.4.0"] {
        // One for requests, which the first of them uses, one for httpx.
        let user = Python::new(venv, &url, &folder.path().join(venv)).env("REQUESTS_CA_BUNDLE", &ca).env("SSL_CERT_FILE", &ca);
        let cache = folder.path().join(format!("{venv}-cache")).display().to_string();
        let found = user.json("snapshot.py", &["model", "acme/large", "main", &cache]).await;
        assert_eq!(found["files"]["w.bin"]["sha256"], sha256_of(&*Memory::holding(bytes.clone())), "{venv}");
        assert_eq!(found["files"].as_object().map(serde_json::Map::len), Some(3), "{venv}");
    }
    // Links back lead where the client came from.
    let mut connection = Connection::over(authority.connect(&mirror).await);
    connection.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", &url["https://".len()..])).await;
    let index = connection.response("GET").await.text();
    assert!(index.contains(&format!("HF_ENDPOINT={url}")), "{index}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_know_the_ca_gets_nothing_and_the_log_says_why() {
    let (hub, _) = hub_with_files().await;
    let authority = Authority::new();
    let mirror = authority.mirror(&hub).start().await;
    let url = format!("https://localhost:{}", address(&mirror).port());
    let folder = TempDir::new().expect("a temporary directory");
    let cache = folder.path().join("cache").display().to_string();
    let user = Python::new("hub-1.33.0", &url, &folder.path().join("home"));
    let ran = user.json("single.py", &["model", "acme/large", "main", "config.json", &cache]).await;
    assert!(ran["error"].is_string(), "{ran}");
    mirror.wait_log("no TLS client=").await;
    assert!(mirror.metrics().await.of("dingospeed_tls_failures_total") > 0.0);
    assert_eq!(hub.asked("config.json"), 0);
}

#[tokio::test]
async fn bytes_are_the_same_by_either_door() {
    let (hub, bytes) = hub_with_files().await;
    let authority = Authority::new();
    let mirror = authority.mirror(&hub).start().await;
    let mut secure = Connection::over(authority.connect(&mirror).await);
    // Cold, then kept; one connection for all.
    for _ in 0..2 {
        secure.ask("GET", FILE, &[]).await;
        let response = secure.response("GET").await;
        assert!(response.whole && response.body == bytes);
    }
    for range in ["0-0", "1048570-1048590", "5000000-", "-70"] {
        secure.ask("GET", FILE, &[&format!("Range: bytes={range}")]).await;
        let by_tls = secure.response("GET").await;
        let plain = mirror.get_range(FILE, &format!("bytes={range}")).await;
        assert!(by_tls.status == 206 && by_tls.whole && by_tls.body == plain.body, "{range}");
        assert_eq!(by_tls.header("content-range"), plain.header("content-range"));
    }
    secure.ask("GET", "/acme/large/resolve/main/absent.txt", &[]).await;
    assert_eq!(secure.response("GET").await.status, 404);
    secure.ask("GET", "/acme/large/resolve/main/empty.txt", &[]).await;
    assert!(secure.response("GET").await.body.is_empty());
    // Kept bytes were read and checked from a file that somebody has cut since; they come anew.
    let blobs = walk(&mirror.repos().join("blobs"));
    let largest = blobs.iter().max_by_key(|path| path.metadata().expect("a file").len()).expect("a file");
    std::fs::OpenOptions::new().write(true).open(largest).expect("the file").set_len(3 << 20).expect("a shorter file");
    secure.ask("GET", FILE, &[]).await;
    let again = secure.response("GET").await;
    let is_refused = again.status >= 500;
    assert!(is_refused || !again.whole || again.body == bytes, "never other bytes: {} {}", again.status, again.body.len());
    assert_eq!(mirror.get("/healthz").await.status, 200);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn a_new_certificate_is_taken_on_sighup_and_a_bad_one_is_not() {
    let (hub, _) = hub_with_files().await;
    let authority = Authority::new();
    let mut mirror = authority.mirror(&hub).start().await;
    let early = authority.connect(&mirror).await;
    let first = shown(&early);
    let mut early = Connection::over(early);
    let second = authority.issue();
    assert_eq!(shown(&authority.connect(&mirror).await), first, "files that nobody has announced change nothing");
    mirror.signal(libc::SIGHUP);
    mirror.wait_log("tls.certificate was read again").await;
    assert_eq!(shown(&authority.connect(&mirror).await), second);
    early.ask("GET", "/healthz", &[]).await;
    assert_eq!(early.response("GET").await.status, 200, "open connections go on");

    std::fs::write(authority.certificate(), "no certificate").expect("a written file");
    mirror.signal(libc::SIGHUP);
    mirror.wait_log("the old certificate stays").await;
    let log = mirror.log();
    let line = log.lines().find(|line| line.contains("the old certificate stays")).expect("the line");
    assert!(line.contains("ERROR") && line.contains("certificate.pem"), "{line}");
    assert_eq!(shown(&authority.connect(&mirror).await), second);
    let ends = mirror.metrics().await.of("dingospeed_tls_certificate_ends_seconds");
    assert!(ends > 1.6e9, "{ends}");
    // A path that would be waited for holds up neither serving nor the next time.
    std::fs::remove_file(authority.certificate()).expect("a file to remove");
    let made = std::process::Command::new("mkfifo").arg(authority.certificate()).status();
    assert!(made.expect("mkfifo").success());
    mirror.signal(libc::SIGHUP);
    mirror.wait_log("no regular file").await;
    std::fs::remove_file(authority.certificate()).expect("a pipe to remove");
    let third = authority.issue();
    mirror.signal(libc::SIGHUP);
    let again = async {
        while mirror.log().matches("tls.certificate was read again").count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("the new certificate is read");
    assert_eq!(shown(&authority.connect(&mirror).await), third);
    // An open connection on which nothing runs does not delay the end.
    assert_eq!(mirror.stop().await.code(), Some(0));
    assert!(early.closes_within(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn sighup_without_tls_ends_nothing() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    mirror.signal(libc::SIGHUP);
    mirror.wait_log("there is no tls.certificate to read again").await;
    assert_eq!(mirror.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn plain_http_at_the_door_for_tls_is_told_so() {
    let (hub, _) = hub_with_files().await;
    let authority = Authority::new();
    let mirror = authority.mirror(&hub).start().await;
    let mut connection = Connection::open(address(&mirror)).await;
    connection.ask("GET", FILE, &[]).await;
    let response = connection.response("GET").await;
    assert_eq!(response.status, 400);
    assert!(response.header("x-error-message").is_some_and(|text| text.contains("https://")), "{response:?}");
    assert!(connection.closes_within(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_not_waited_for() {
    let (hub, _) = hub_with_files().await;
    let authority = Authority::new();
    let mirror = authority.mirror(&hub).set("server.head_timeout", "300ms").start().await;
    let mut silent = Connection::open(address(&mirror)).await;
    assert!(silent.closes_within(Duration::from_secs(20)).await);
    let mut half = Connection::open(address(&mirror)).await;
    half.send([22, 3, 1]).await;
    assert!(half.closes_within(Duration::from_secs(20)).await);
    assert_eq!(mirror.metrics().await.of("dingospeed_tls_failures_total"), 2.0);
}

#[tokio::test]
async fn a_check_reads_the_files_as_the_server_does() {
    let authority = Authority::new();
    let (certificate, key) = (authority.certificate(), authority.key());
    let check = async |more: &[&str]| {
        let sets = [
            "tls.listen=127.0.0.1:0".to_owned(),
            format!("tls.certificate={}", certificate.display()),
            format!("tls.key={}", key.display()),
        ];
        let mut words = vec!["check"];
        for set in &sets {
            words.extend(["--set", set]);
        }
        words.extend(more);
        dingospeed(&words, &[]).await
    };
    assert_eq!(check(&[]).await, (Some(0), String::new(), "ok\n".to_owned()));
    let (code, stderr, _) = check(&["--set", "tls.key=/nowhere/key.pem"]).await;
    assert!(code == Some(1) && stderr.contains("tls.key = `/nowhere/key.pem`"), "{stderr}");
    let (code, stderr, _) = check(&["--set", "tls.key=", "--set", "log.level=loud"]).await;
    assert!(code == Some(2) && stderr.contains("tls.key must name a file") && stderr.contains("log.level"), "{stderr}");
    let old = std::fs::read(&key).expect("a key");
    authority.issue();
    std::fs::write(&key, old).expect("a written file");
    let (code, _, stdout) = check(&["--json"]).await;
    assert!(code == Some(1) && stdout.contains("does not belong to the certificate"), "{stdout}");
    let (code, stderr, _) = check(&["--set", "tls.listen="]).await;
    assert_eq!(code, Some(0), "nobody reads them: {stderr}");
    // One that has ended is taken, as by the server, and told.
    let own = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a legal name");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    std::fs::write(&certificate, params.self_signed(&own).expect("a certificate").pem()).expect("a written file");
    std::fs::write(&key, own.serialize_pem()).expect("a written file");
    let (code, stderr, stdout) = check(&[]).await;
    assert!(code == Some(0) && stdout == "ok\n" && stderr.contains("renew it"), "{stderr}");
}

#[tokio::test]
async fn without_a_certificate_there_is_no_start() {
    let (hub, _) = hub_with_files().await;
    let authority = Authority::new();
    std::fs::remove_file(authority.key()).expect("a file to remove");
    let said = authority.mirror(&hub).try_start().await.err().expect("no start");
    assert!(said.contains("tls.key") && said.contains("key.pem") && said.contains("exit status: 1"), "{said}");
    let said = Mirror::of(&hub).set("tls.listen", "127.0.0.1:0").try_start().await.err().expect("no start");
    assert!(said.contains("tls.certificate must name a file"), "{said}");
}
