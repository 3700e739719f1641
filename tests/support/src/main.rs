//! The fake Hub as a process, for the demo, the benchmarks and tests in other languages.
//!
//! One JSON line on stdout tells that it is ready; talk goes to stderr. SIGTERM and Ctrl-C end it cleanly.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::Parser;
use fake_hub::{Call, FakeHub, Kind, LFS_OVER, parse_size};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for huggingface.co and its CDN.
#[derive(Parser)]
#[command(name = "fake-hub")]
struct Options {
    /// Where the Hub listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the CDN listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    cdn: SocketAddr,
    /// A model and the directory of its files.
    #[arg(long, value_name = "ORG/NAME=DIR")]
    model: Vec<String>,
    #[arg(long, value_name = "ORG/NAME=DIR")]
    dataset: Vec<String>,
    #[arg(long, value_name = "ORG/NAME=DIR")]
    space: Vec<String>,
    #[arg(long, value_name = "ORG/NAME=DIR")]
    kernel: Vec<String>,
    /// A file of a model whose bytes are computed: sizes like 10GiB. Its sha256 is true, and costs about a second per GiB.
    #[arg(long, value_name = "ORG/NAME:PATH=SIZE")]
    synthetic: Vec<String>,
    /// Invent the sha256 of synthetic files instead, to start at once.
    #[arg(long)]
    unhashed: bool,
    /// Larger files are in LFS, as are those whose extension the Hub tracks.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value_t = LFS_OVER)]
    lfs_over: u64,
    /// A valid token.
    #[arg(long)]
    token: Vec<String>,
    /// A model that only granted tokens read.
    #[arg(long, value_name = "ORG/NAME")]
    gated: Vec<String>,
    /// A model that only granted tokens see.
    #[arg(long, value_name = "ORG/NAME")]
    private: Vec<String>,
    /// Lets a token into a model.
    #[arg(long, value_name = "TOKEN=ORG/NAME")]
    grant: Vec<String>,
    /// An old id that redirects to a new one.
    #[arg(long, value_name = "OLD=NEW")]
    rename: Vec<String>,
    /// The Hub's name in absolute links.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Bytes per second for each CDN connection; sizes like 50MiB.
    #[arg(long, value_parser = parse_size)]
    rate: Option<u64>,
    /// Milliseconds before each answer.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Seconds that a signed CDN address lives.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    signature_life: u64,
    /// Entries on a page of a tree.
    #[arg(long, default_value_t = 1000)]
    page_len: usize,
    /// Write a JSON line per request here.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write what `GET /__stats` tells here when ending.
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Log no requests to stderr.
    #[arg(long)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-hub: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut builder = FakeHub::builder()
        .hub_address(options.listen)
        .cdn_address(options.cdn)
        .page_len(options.page_len, 50)
        .latency(Duration::from_millis(options.latency))
        .signature_life(Duration::from_secs(options.signature_life));
    if let Some(url) = &options.public_url {
        builder = builder.public_url(url);
    }
    if let Some(rate) = options.rate {
        builder = builder.cdn_rate(rate);
    }
    for token in &options.token {
        builder = builder.token(token);
    }
    let hub = builder.start().await?;
    fill(&hub, &options)?;
    watch(&hub, &options)?;
    println!("{}", json!({ "hub": hub.url(), "cdn": hub.cdn_url(), "pid": std::process::id() }));
    io::stdout().flush()?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    if let Some(path) = &options.stats {
        std::fs::write(path, format!("{}\n", hub.stats()))?;
    }
    hub.stop().await;
    Ok(())
}

fn fill(hub: &FakeHub, options: &Options) -> io::Result<()> {
    let directories = [
        (Kind::Model, &options.model),
        (Kind::Dataset, &options.dataset),
        (Kind::Space, &options.space),
        (Kind::Kernel, &options.kernel),
    ];
    for (kind, pairs) in directories {
        for pair in pairs {
            let (id, directory) = halves(pair, '=')?;
            let named = |error| io::Error::other(format!("read `{directory}`: {error}"));
            hub.repo(kind, id).directory(Path::new(directory), options.lfs_over).map_err(named)?;
        }
    }
    for (seed, text) in options.synthetic.iter().enumerate() {
        let (name, size) = halves(text, '=')?;
        let (id, path) = halves(name, ':')?;
        let size = parse_size(size).map_err(io::Error::other)?;
        let repo = match options.unhashed {
            true => hub.model(id).synthetic_unhashed(path, size, seed as u64),
            false => hub.model(id).synthetic(path, size, seed as u64),
        };
        repo.commit("synthetic");
    }
    for id in &options.gated {
        hub.model(id).gated();
    }
    for id in &options.private {
        hub.model(id).private();
    }
    for pair in &options.grant {
        let (token, id) = halves(pair, '=')?;
        hub.model(id).grant(token);
    }
    for pair in &options.rename {
        let (old, new) = halves(pair, '=')?;
        hub.rename(old, new);
    }
    Ok(())
}

fn halves(text: &str, mark: char) -> io::Result<(&str, &str)> {
    text.split_once(mark).ok_or_else(|| io::Error::other(format!("`{text}` has no `{mark}`: see --help")))
}

/// Logs each request when it ends.
fn watch(hub: &FakeHub, options: &Options) -> io::Result<()> {
    let file = options.log.as_ref().map(File::create).transpose()?.map(Mutex::new);
    let quiet = options.quiet;
    if quiet && file.is_none() {
        return Ok(());
    }
    hub.on_call(move |call: &Call| {
        let line = call.to_json();
        if !quiet {
            let range = call.header("range").unwrap_or("-");
            eprintln!(
                "{} {} {} status={} range={range} bytes={} ms={}",
                line["listener"].as_str().unwrap_or_default(),
                call.method,
                call.target(),
                call.status,
                call.body_bytes,
                call.took.as_millis(),
            );
        }
        if let Some(file) = &file {
            let mut file = file.lock().unwrap_or_else(|broken| broken.into_inner());
            // A full disk must not break the answers.
            let _ = writeln!(file, "{line}");
        }
    });
    Ok(())
}
