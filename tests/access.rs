//! Who may read what: every kind of repo, caller and question, as the Hub itself answers it; and what is left of that when
//! the Hub is down.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_hub::{FakeHub, Kind, Repo, noise};
use http::Method;

use crate::harness::{Connection, Mirror, Response, dingospeed};

const MASK: &str = "****************************************************************";
const KINDS: [Kind; 3] = [Kind::Model, Kind::Dataset, Kind::Space];
/// The time in which upstream's word on a caller counts, and one that is surely longer.
const ACCESS: &str = "1s";
const LONGER: Duration = Duration::from_millis(1300);

/// What a repo is when it is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Public,
    Gated,
    Private,
    Disabled,
    Missing,
    PublicTurnedGated,
    GatedTurnedPublic,
}

const STATES: [State; 7] = [
    State::Public,
    State::Gated,
    State::Private,
    State::Disabled,
    State::Missing,
    State::PublicTurnedGated,
    State::GatedTurnedPublic,
];

/// Those whom a closed repo refuses come first, so that nobody has fetched anything when they ask for the first time.
const CALLERS: [(&str, Option<&str>); 6] = [
    ("anonymous", None),
    ("bad", Some("hf_tokenThatIsBad")),
    ("other", Some("hf_tokenOfOther")),
    ("revoked", Some("hf_tokenRevoked")),
    ("owner", Some("hf_tokenOfOwner")),
    ("granted", Some("hf_tokenGranted")),
];

struct Question {
    name: &'static str,
    method: Method,
    /// `{page}` is the repo's page, `{api}` its API path, `{kind}` and `{id}` its parts.
    target: &'static str,
    range: Option<&'static str>,
    form: Option<&'static str>,
}

const fn get(name: &'static str, target: &'static str) -> Question {
    Question { name, method: Method::GET, target, range: None, form: None }
}

fn questions() -> Vec<Question> {
    let page = "{page}/resolve/main/w.bin";
    vec![
        Question { method: Method::HEAD, ..get("head", page) },
        get("whole", page),
        Question { range: Some("bytes=100-299"), ..get("range", page) },
        get("small", "{page}/resolve/main/config.json"),
        get("shown to all", "{page}/resolve/main/README.md"),
        get("absent", "{page}/resolve/main/absent.txt"),
        get("no revision", "{page}/resolve/nowhere/w.bin"),
        get("tree", "{api}/tree/main"),
        get("whole tree", "{api}/tree/main?recursive=true&expand=false"),
        get("info", "{api}"),
        get("info of main", "{api}/revision/main"),
        get("blobs", "{api}?blobs=true"),
        Question {
            method: Method::POST,
            form: Some("paths=w.bin&paths=config.json&expand=false"),
            ..get("paths-info", "{api}/paths-info/main")
        },
        get("raw", "{page}/raw/main/config.json"),
        get("raw pointer", "{page}/raw/main/w.bin"),
        get("refs", "{api}/refs"),
        get("commits", "{api}/commits/main"),
        get("auth-check", "{api}/auth-check"),
        get("search", "/api/{kind}?search={id}"),
    ]
}

struct Cell {
    repo: Repo,
    kind: Kind,
    state: State,
}

impl Cell {
    fn new(hub: &FakeHub, kind: Kind, state: State) -> Cell {
        let id = format!("acme/{}-{}", plural(kind), format!("{state:?}").to_lowercase());
        let seed = id.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let repo = hub.repo(kind, &id);
        repo.lfs("w.bin", noise(seed, 90_000))
            .file("config.json", format!("{{\"secret\": \"of {id}\"}}"))
            .file("README.md", "# read me")
            .commit("first");
        repo.grant("hf_tokenOfOwner").grant("hf_tokenGranted").grant("hf_tokenRevoked");
        match state {
            State::Gated | State::GatedTurnedPublic => drop(repo.gated()),
            State::Private => drop(repo.private()),
            State::Disabled => drop(repo.disabled()),
            State::Missing => hub.remove(kind, &id),
            State::Public | State::PublicTurnedGated => {}
        }
        Cell { repo, kind, state }
    }

    fn is_turned(&self) -> bool {
        matches!(self.state, State::PublicTurnedGated | State::GatedTurnedPublic)
    }

    fn turn(&self) {
        match self.state {
            State::PublicTurnedGated => drop(self.repo.gated()),
            State::GatedTurnedPublic => drop(self.repo.public()),
            _ => {}
        }
        if self.state != State::Missing {
            self.repo.revoke("hf_tokenRevoked");
        }
    }

    fn target(&self, question: &Question) -> String {
        let (kind, id) = (plural(self.kind), self.repo.id());
        let page = if self.kind == Kind::Model { format!("/{id}") } else { format!("/{kind}/{id}") };
        let target = question.target.replace("{page}", &page).replace("{api}", &format!("/api/{kind}/{id}"));
        target.replace("{kind}", kind).replace("{id}", id.trim_start_matches("acme/"))
    }

    /// What a refused caller must not learn: bytes, ids and sizes.
    fn secrets(&self) -> Vec<String> {
        if self.state == State::Missing {
            return Vec::new();
        }
        let (large, small) = (self.repo.oid("w.bin"), self.repo.oid("config.json"));
        vec![large, small, "90000".to_owned(), format!("of {}", self.repo.id())]
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Dataset => "datasets",
        Kind::Space => "spaces",
        _ => "models",
    }
}

async fn ask(address: std::net::SocketAddr, question: &Question, target: &str, token: Option<&str>) -> Response {
    let mut connection = Connection::open(address).await;
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: hub.test\r\nAccept-Encoding: identity\r\n", question.method);
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    if let Some(range) = question.range {
        head += &format!("Range: {range}\r\n");
    }
    let form = question.form.unwrap_or_default();
    if question.form.is_some() {
        head += &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len());
    }
    connection.send(format!("{head}\r\n{form}")).await;
    connection.response(question.method.as_str()).await
}

/// What counts of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    status: u16,
    code: Option<String>,
    /// Whether ids are hidden.
    masked: bool,
    /// Repos found by a search.
    found: Option<BTreeSet<String>>,
}

fn verdict(question: &Question, answer: &Response) -> Verdict {
    let ids = |text: &str| {
        let list: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
        list.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
    };
    Verdict {
        status: answer.status,
        code: answer.header("x-error-code").map(str::to_owned),
        masked: answer.text().contains(MASK),
        found: (question.name == "search").then(|| ids(&answer.text())),
    }
}

/// What the mirror should say where the Hub says this. Here is every difference that is meant.
fn expected(question: &Question, hub: &Response, state: State, caller: &str, mirror: &Verdict) -> Verdict {
    let mut verdict = verdict(question, hub);
    // Files come from the mirror itself, never by a redirect.
    if matches!(verdict.status, 302 | 307) {
        verdict.status = if question.range.is_some() { 206 } else { 200 };
    }
    // Over plain http clients need the code to raise RepositoryNotFoundError; on the Hub they guess it from the URL.
    if verdict.status == 401 && verdict.code.is_none() && question.name != "search" {
        verdict.code = Some("RepoNotFound".to_owned());
    }
    // What is open to all and kept is given without asking whether the token is good: its owner loses nothing by that.
    let is_open = matches!(state, State::Public | State::GatedTurnedPublic);
    if is_open && caller == "bad" && (mirror.status < 300 || mirror.code.as_deref() == Some("EntryNotFound")) {
        return mirror.clone();
    }
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_gets_of_every_repo_what_the_hub_gives() {
    let hub = FakeHub::start().await;
    hub.token("hf_tokenOfOther");
    let cells: Vec<Cell> =
        KINDS.iter().flat_map(|kind| STATES.iter().map(|state| Cell::new(&hub, *kind, *state)).collect::<Vec<_>>()).collect();
    let mirror = Mirror::of(&hub)
        .set("freshness.access", ACCESS)
        .set("freshness.revision", "1h")
        .set("upstream.api_calls", 0)
        .set("upstream.resolver_calls", 0)
        .set("log.level", "debug")
        .start()
        .await;
    let questions = questions();
    // What turns was asked for by all before.
    for cell in cells.iter().filter(|cell| cell.is_turned()) {
        for (_, token) in CALLERS {
            for question in &questions {
                ask(mirror.address(), question, &cell.target(question), token).await;
            }
        }
    }
    cells.iter().for_each(Cell::turn);
    tokio::time::sleep(LONGER).await;

    let mut wrong = Vec::new();
    for round in ["cold", "cached"] {
        for cell in &cells {
            for (caller, token) in CALLERS {
                for question in &questions {
                    let target = cell.target(question);
                    let direct = ask(hub.hub_address(), question, &target, token).await;
                    let answer = ask(mirror.address(), question, &target, token).await;
                    let found = verdict(question, &answer);
                    let wanted = expected(question, &direct, cell.state, caller, &found);
                    let at = format!("{:?} {:?}, {caller}, {} ({round})", cell.kind, cell.state, question.name);
                    if found != wanted {
                        wrong.push(format!("{at}: wanted {wanted:?}, got {found:?}"));
                    }
                    wrong.extend(mistake(cell, question, &answer, &direct).map(|what| format!("{at}: {what}")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(hub.leaks().is_empty(), "a token went to the CDN");
    assert_no_token_is_left(&mirror);
}

/// What is wrong with an answer beyond its status.
fn mistake(cell: &Cell, question: &Question, answer: &Response, direct: &Response) -> Option<String> {
    if answer.status >= 400 || answer.text().contains(MASK) {
        let told = format!("{:?} {}", answer.headers, answer.text());
        let is_size = |secret: &str| secret.bytes().all(|byte| byte.is_ascii_digit());
        // Masked listings tell sizes, and the git ids of small files, on the Hub too.
        let masked = answer.status < 400;
        let mut secrets = cell.secrets();
        if masked {
            secrets.retain(|secret| !is_size(secret) && *secret != cell.repo.oid("config.json"));
        }
        return secrets.into_iter().find(|secret| told.contains(secret)).map(|secret| format!("it tells {secret}"));
    }
    let content = (cell.state != State::Missing).then(|| cell.repo.content("w.bin"))?;
    let wanted = match question.name {
        "whole" => content.read(0, 90_000),
        "range" => content.read(100, 200),
        "small" | "raw" => cell.repo.content("config.json").read(0, 1000),
        "raw pointer" => direct.body.clone().into(),
        _ => return None,
    };
    // A bad token's direct answer is a refusal, which holds no pointer.
    (direct.status < 400 && answer.body != wanted).then(|| format!("wrong bytes: {}", answer.body.len()))
}

/// Looks through the log and every file of the mirror's.
fn assert_no_token_is_left(mirror: &Mirror) {
    let tokens = CALLERS.iter().filter_map(|(_, token)| *token);
    let log = mirror.log();
    let mut files = Vec::new();
    walk(&mirror.repos(), &mut files);
    assert!(files.len() > 20);
    for token in tokens {
        assert!(!log.contains(token), "the log tells a token");
        for (name, bytes) in &files {
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{name} holds a token");
        }
    }
}

fn walk(dir: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the mirror's") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            walk(&entry.path(), files);
        } else if kind.is_file() {
            let name = entry.path().display().to_string();
            files.push((name, std::fs::read(entry.path()).expect("a file of the mirror's")));
        }
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

async fn status(mirror: &Mirror, target: &str, token: &str) -> u16 {
    mirror.ask("GET", target, &[&bearer(token)]).await.status
}

fn gated(hub: &FakeHub) -> Repo {
    hub.token("hf_stranger");
    hub.model("acme/gated").lfs("w.bin", noise(3, 90_000)).file("a.txt", "a").commit("first").gated().grant("hf_member")
}

const W: &str = "/acme/gated/resolve/main/w.bin";
const TREE: &str = "/api/models/acme/gated/tree/main?recursive=true";

#[tokio::test]
async fn a_withdrawn_token_reads_for_the_ttl_and_no_longer() {
    let hub = FakeHub::start().await;
    let repo = gated(&hub);
    let mirror = Mirror::of(&hub).set("freshness.access", "2s").start().await;
    assert_eq!(status(&mirror, W, "hf_member").await, 200);
    repo.revoke("hf_member");
    assert_eq!(status(&mirror, W, "hf_member").await, 200, "remembered");
    tokio::time::sleep(Duration::from_millis(2300)).await;
    for target in [W, "/acme/gated/resolve/main/a.txt"] {
        let refused = mirror.ask("GET", target, &[&bearer("hf_member")]).await;
        assert_eq!((refused.status, refused.header("x-error-code")), (403, Some("GatedRepo")), "{target}");
    }
    // Upstream's no is remembered longer than its yes: not even its being down opens the door again.
    hub.down().await;
    tokio::time::sleep(Duration::from_millis(2300)).await;
    assert_eq!(status(&mirror, W, "hf_member").await, 503);
}

#[tokio::test]
async fn a_refused_caller_costs_upstream_one_question_not_one_per_file() {
    let hub = FakeHub::start().await;
    let repo = gated(&hub);
    for n in 0..30 {
        repo.file(&format!("f{n}.json"), "x");
    }
    repo.commit("many");
    let mirror = Mirror::start(&hub).await;
    for token in ["hf_stranger", "hf_unknown"] {
        assert!(status(&mirror, W, token).await >= 401);
        hub.clear_log();
        for n in 0..30 {
            let target = format!("/acme/gated/resolve/main/f{n}.json");
            assert!(matches!(status(&mirror, &target, token).await, 401 | 403));
        }
        assert!(hub.hub_calls().is_empty(), "{token}: {} questions", hub.hub_calls().len());
    }
    // Without a token, what was found out of the repo as a whole is the answer.
    hub.clear_log();
    for n in 0..30 {
        assert_eq!(mirror.get(&format!("/acme/gated/resolve/main/f{n}.json")).await.status, 401);
    }
    assert!(hub.hub_calls().is_empty());
}

#[tokio::test]
async fn masked_and_unmasked_listings_never_mix() {
    for member_first in [false, true] {
        let hub = FakeHub::start().await;
        let repo = gated(&hub);
        let mirror = Mirror::start(&hub).await;
        let oid = repo.oid("w.bin");
        let at_commit = format!("/api/models/acme/gated/tree/{}?recursive=true&expand=false", repo.sha());
        let info = "/api/models/acme/gated?blobs=true";
        for round in 0..4 {
            let is_member = (round % 2 == 0) == member_first;
            for target in [TREE, &at_commit, info] {
                let headers = if is_member { vec![bearer("hf_member")] } else { Vec::new() };
                let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
                let answer = mirror.ask("GET", target, &headers).await;
                assert_eq!(answer.status, 200, "{target}");
                assert_eq!(answer.text().contains(&oid), is_member, "{target}: {}", answer.text());
                assert_eq!(answer.text().contains(MASK), !is_member, "{target}");
            }
        }
        // What the member listed answers the member's next question, and nobody else's.
        hub.clear_log();
        let body = "paths=w.bin";
        let target = format!("/api/models/acme/gated/paths-info/{}", repo.sha());
        let form = Question { method: Method::POST, form: Some(body), ..get("paths-info", "") };
        let own = ask(mirror.address(), &form, &target, Some("hf_member")).await;
        assert!(own.text().contains(&oid), "{}", own.text());
        assert_eq!(hub.asked("paths-info"), 0);
        for token in [None, Some("hf_stranger")] {
            let masked = ask(mirror.address(), &form, &target, token).await;
            assert!(masked.text().contains(MASK) && !masked.text().contains(&oid), "{}", masked.text());
        }
    }
}

#[tokio::test]
async fn a_repo_that_closes_leaves_no_masked_listing_behind() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/gated").lfs("w.bin", noise(3, 90_000)).commit("first").grant("hf_member");
    let mirror = Mirror::of(&hub).set("freshness.access", "1h").set("freshness.revision", "1h").start().await;
    assert_eq!(mirror.get(W).await.status, 200, "it is known as open");
    repo.gated();
    for target in ["/api/models/acme/gated/tree/main", TREE, "/api/models/acme/gated?blobs=true"] {
        assert!(mirror.get(target).await.text().contains(MASK), "{target}");
        let own = mirror.ask("GET", target, &[&bearer("hf_member")]).await;
        assert!(own.text().contains(&repo.oid("w.bin")) && !own.text().contains(MASK), "{target}: {}", own.text());
    }
}

#[tokio::test]
async fn while_upstream_is_down_those_accepted_lately_read_on() {
    let hub = FakeHub::start().await;
    gated(&hub);
    let repo = hub.dataset("acme/private").file("a.txt", "a").commit("first").private().grant("hf_member");
    let mut mirror = Mirror::of(&hub).set("freshness.access", "0s").set("freshness.revision", "0s").start().await;
    let private = "/datasets/acme/private/resolve/main/a.txt";
    let questions = [W.to_owned(), TREE.to_owned(), private.to_owned(), "/api/models/acme/gated/revision/main".to_owned()];
    for target in &questions {
        assert_eq!(status(&mirror, target, "hf_member").await, 200, "{target}");
    }
    assert!(status(&mirror, W, "hf_stranger").await == 403 && status(&mirror, private, "hf_stranger").await == 404);
    hub.down().await;
    mirror.restart().await;
    for target in &questions {
        assert_eq!(status(&mirror, target, "hf_member").await, 200, "{target}");
        for token in ["hf_stranger", "hf_unknown"] {
            let refused = mirror.ask("GET", target, &[&bearer(token)]).await;
            assert_eq!(refused.status, 503, "{target}");
            let said = refused.text();
            assert!(!said.contains(&repo.oid("a.txt")), "{said}");
        }
        assert_eq!(mirror.get(target).await.status, 503, "{target}");
    }
    let secret = std::fs::metadata(mirror.repos().join("secret")).expect("the directory's secret");
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    let mut files = Vec::new();
    walk(&mirror.repos(), &mut files);
    let secret = std::fs::read(mirror.repos().join("secret")).expect("the directory's secret");
    assert_eq!(secret.len(), 32);
    for (name, bytes) in &files {
        assert!(!bytes.windows(9).any(|window| window == b"hf_member"), "{name}");
        assert!(name.ends_with("/secret") || !bytes.windows(32).any(|window| window == secret), "{name}");
    }
    // A new secret forgets everybody.
    mirror.stop().await;
    std::fs::remove_file(mirror.repos().join("secret")).expect("the directory's secret");
    mirror.restart().await;
    assert_eq!(status(&mirror, W, "hf_member").await, 503);
}

#[tokio::test]
async fn the_grace_ends_and_can_be_denied() {
    for (key, value, wait) in [("access.grace", "1s", LONGER), ("access.when_upstream_is_down", "deny", Duration::ZERO)] {
        let hub = FakeHub::start().await;
        gated(&hub);
        hub.model("acme/open").file("a.txt", "a").commit("first");
        let mirror = Mirror::of(&hub).set("freshness.access", "0s").set(key, value).start().await;
        let open = "/acme/open/resolve/main/a.txt";
        assert_eq!((status(&mirror, W, "hf_member").await, mirror.get(open).await.status), (200, 200));
        hub.down().await;
        tokio::time::sleep(wait).await;
        let refused = mirror.ask("GET", W, &[&bearer("hf_member")]).await;
        let said = refused.header("x-error-message").unwrap_or_default();
        assert_eq!((refused.status, refused.header("x-error-code")), (503, None), "{key}");
        assert!(said.contains("cannot reach its upstream"), "{said}");
        assert_eq!(mirror.get(open).await.status, 200, "what is open stays so");
        hub.up().await;
        let began = std::time::Instant::now();
        while status(&mirror, W, "hf_member").await != 200 {
            assert!(began.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn offline_the_accepted_stay_so_without_end() {
    let hub = FakeHub::start().await;
    gated(&hub);
    let repos = tempfile::tempdir().expect("a temporary directory");
    let mut online = Mirror::of(&hub).repos(repos.path()).start().await;
    for target in [W, TREE] {
        assert_eq!(status(&online, target, "hf_member").await, 200);
    }
    online.stop().await;
    hub.clear_log();
    let mut offline = Mirror::of(&hub).repos(repos.path()).set("access.grace", "0s").arg("--offline").start().await;
    for target in [W, TREE, "/api/models/acme/gated/auth-check"] {
        assert_eq!(status(&offline, target, "hf_member").await, 200, "{target}");
        assert_eq!(status(&offline, target, "hf_stranger").await, 503, "{target}");
        assert_eq!(offline.get(target).await.status, 503, "{target}");
    }
    offline.stop().await;
    let denying = Mirror::of(&hub).repos(repos.path()).set("access.when_upstream_is_down", "deny").arg("--offline").start().await;
    assert_eq!(status(&denying, W, "hf_member").await, 503);
    assert!(hub.calls().is_empty());
}

#[tokio::test]
async fn the_operators_token_opens_what_is_listed_and_nothing_else() {
    let hub = FakeHub::start().await;
    let repo = gated(&hub);
    repo.grant("hf_operator");
    hub.model("other/gated").file("a.txt", "a").commit("first").gated().grant("hf_operator");
    hub.dataset("acme/gated").file("a.txt", "a").commit("first").gated().grant("hf_operator");
    // The list names it, but the operator may not read it either.
    hub.model("acme/closed").file("a.txt", "a").commit("first").gated();
    let mut mirror = Mirror::of(&hub)
        .set("access.operator_repos", "models/acme/*")
        .set("freshness.access", "0s")
        .set("upstream.token", "hf_operator")
        .start()
        .await;
    for token in [None, Some("hf_stranger"), Some("hf_unknown")] {
        for question in questions() {
            if matches!(question.name, "search" | "absent" | "no revision" | "small" | "shown to all" | "raw") {
                continue;
            }
            let target = question.target.replace("{page}", "/acme/gated").replace("{api}", "/api/models/acme/gated");
            let form = question.form.map(|_| "paths=w.bin");
            let answer = ask(mirror.address(), &Question { form, ..question }, &target, token).await;
            assert!(answer.status < 300, "{token:?} {target}: {} {}", answer.status, answer.text());
            assert!(!answer.text().contains(MASK), "{target}");
        }
        let sent = ask(mirror.address(), &get("whole", ""), W, token).await;
        assert_eq!(sent.body, noise(3, 90_000));
        for target in
            ["/other/gated/resolve/main/a.txt", "/datasets/acme/gated/resolve/main/a.txt", "/acme/closed/resolve/main/a.txt"]
        {
            let answer = ask(mirror.address(), &get("whole", ""), target, token).await;
            assert!(matches!(answer.status, 401 | 403), "{target}: {}", answer.status);
        }
    }
    assert!(hub.leaks().is_empty());
    hub.down().await;
    mirror.restart().await;
    assert_eq!(mirror.get(W).await.status, 200, "the operator was accepted lately");
    assert!(!mirror.log().contains("hf_operator"));
    hub.up().await;
    repo.revoke("hf_operator");
    let began = std::time::Instant::now();
    while mirror.get(W).await.status != 401 {
        assert!(began.elapsed() < Duration::from_secs(60), "the operator was shut out, the callers were not");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `login()` asks whose a token is and fails on a 5xx, so that is remembered: for its bearer alone, and only while the Hub is down.
#[tokio::test]
async fn whose_a_token_is_is_remembered_for_its_bearer() {
    let hub = FakeHub::start().await;
    hub.token("hf_alice");
    hub.token("hf_bob");
    hub.token("hf_gone");
    let mut mirror = Mirror::start(&hub).await;
    let whoami = async |mirror: &Mirror, token: &str| {
        mirror.ask("GET", "/api/whoami-v2", &[&format!("Authorization: Bearer {token}")]).await
    };
    for token in ["hf_alice", "hf_gone"] {
        let told = whoami(&mirror, token).await;
        assert_eq!((told.status, told.json()["email"].is_string()), (200, true), "upstream's own answer is passed as it is");
    }
    // One that the Hub no longer knows is forgotten, as soon as it says so.
    hub.revoke("hf_gone");
    let began = std::time::Instant::now();
    while whoami(&mirror, "hf_gone").await.status != 401 {
        assert!(began.elapsed() < Duration::from_secs(60), "a withdrawn token has a name");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    hub.down().await;
    mirror.restart().await;
    let told = whoami(&mirror, "hf_alice").await;
    assert_eq!(told.status, 200, "{}", told.text());
    let json = told.json();
    assert_eq!(
        (&json["name"], &json["type"], &json["auth"]["accessToken"]["role"]),
        (&"alice".into(), &"user".into(), &"read".into())
    );
    assert_eq!(json.get("email"), None, "what need not be kept is not");
    for token in ["hf_bob", "hf_gone", "hf_unknown"] {
        assert_eq!(whoami(&mirror, token).await.status, 503, "{token}");
    }
    assert_eq!(mirror.get("/api/whoami-v2").await.status, 503);
    // Nothing on the disk tells the token, or anything to others.
    let holders = mirror.repos().join("api/holders");
    assert_eq!(std::fs::metadata(&holders).expect("a directory").permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&holders).expect("a directory") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        assert!(!text.contains("hf_") && !text.contains("example.org"), "{text}");
    }
    mirror.stop().await;
    let repos = mirror.repos();
    for (key, value, status) in
        [("access.grace", "0s", 503), ("access.when_upstream_is_down", "deny", 503), ("access.grace", "1h", 200)]
    {
        let mirror = Mirror::of(&hub).repos(&repos).set(key, value).start().await;
        assert_eq!(whoami(&mirror, "hf_alice").await.status, status, "{key}={value}");
    }
    let offline = Mirror::of(&hub).repos(&repos).arg("--offline").start().await;
    assert_eq!(whoami(&offline, "hf_alice").await.status, 200);
    assert!(!mirror.log().contains("hf_alice"));
}

/// What other users of the machine can read below a directory, by the modes alone; sockets and links do not count.
fn readable_by_others(dir: &Path) -> Vec<PathBuf> {
    let mode = |path: &Path| path.symlink_metadata().expect("an entry").permissions().mode();
    if mode(dir) & 0o001 == 0 {
        return Vec::new();
    }
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        let kind = path.symlink_metadata().expect("an entry").file_type();
        if kind.is_dir() {
            found.extend(readable_by_others(&path));
        } else if kind.is_file() && mode(&path) & 0o004 != 0 {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn other_users_of_the_machine_cannot_read_what_is_kept() {
    let hub = FakeHub::start().await;
    hub.model("acme/closed").file("config.json", "{}").lfs("w.bin", noise(1, 1 << 20)).commit("first");
    let token = hub.token("hf_owner");
    hub.model("acme/closed").private().grant(&token);
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    // A directory of the mirror's own making, and one that was there and is open to all.
    let (new, there) = (folder.path().join("new"), folder.path().join("there"));
    for dir in [&there, &there.join("files")] {
        std::fs::create_dir(dir).expect("a directory");
        std::fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("a mode");
    }
    for repos in [&new, &there] {
        let mut mirror = Mirror::of(&hub).repos(repos).start().await;
        for file in ["config.json", "w.bin"] {
            let target = format!("/acme/closed/resolve/main/{file}");
            assert_eq!(mirror.ask("GET", &target, &["Authorization: Bearer hf_owner"]).await.status, 200);
        }
        mirror.wait_link(&format!("models/acme/closed/resolve/{}/w.bin", hub.model("acme/closed").sha())).await;
        let repos_of = repos.display().to_string();
        let (code, stderr, _) = dingospeed(&["pin", "acme/closed", "--repos", &repos_of], &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
        // Its end writes down what else there is.
        mirror.stop().await;
        let mut readable = readable_by_others(repos);
        readable.retain(|path| !["VERSION", "lock"].iter().any(|name| *path == repos.join(name)));
        assert_eq!(readable, Vec::<PathBuf>::new());
        assert!(repos.join("hits").exists() && repos.join("pins").exists());
        for name in ["blobs", "files", "api", "quarantine", "tmp"] {
            let mode = repos.join(name).metadata().expect("a directory").permissions().mode();
            assert_eq!(mode & 0o022, if repos == &there && name == "files" { 0o020 } else { 0 }, "{name}: {mode:o}");
        }
    }
    assert_eq!(new.metadata().expect("a directory").permissions().mode() & 0o007, 0);
    assert_eq!(there.metadata().expect("a directory").permissions().mode() & 0o002, 0);
}
