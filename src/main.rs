//! `dingospeed`: reads the command line, does what it says, and ends with a code that tells how it went.

use dingospeed::{
    admin::{AskError, Keeper},
    cli::{self, Command},
    commands::{keep, ls, pull, status, verify},
    config::{Config, LogFormat},
    journal,
    server::{self, Ended},
    store::{StoreOptions, View},
};
use std::process::ExitCode;

/// A request makes some hundred small allocations; with glibc's own allocator a small hit costs a fifth more CPU.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was asked for was not understood.
const MISTAKEN: u8 = 2;
/// Ended by SIGINT, as shells count it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Serve(config)) => serve(&config),
        Ok(Command::Pull(config, asked)) => fetch(config, &asked),
        Ok(Command::Ls(config, asked)) => beside(&config, |view| ls::run(view, &asked)),
        Ok(Command::Rm(config, asked)) => beside(&config, |view| keep::rm(view, &asked, || find_keeper(&config))),
        Ok(Command::Gc { config, dry_run }) => {
            beside(&config, |view| keep::gc(view, dry_run, &server::limits(&config), || find_keeper(&config)))
        }
        Ok(Command::Verify(config, asked)) => beside(&config, |view| verify::run(view, &asked, || find_keeper(&config))),
        Ok(Command::Pin { config, chosen, lift }) => beside(&config, |view| keep::pin(view, &chosen, lift)),
        Ok(Command::Status(url)) => status::run(&url),
        Ok(Command::StatusOf(root)) => status::of_directory(&root),
        Ok(Command::Check) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("dingospeed: {mistake}"));
            ExitCode::from(MISTAKEN)
        }
    }
}

fn serve(config: &Config) -> ExitCode {
    journal::start(&config.log.level, config.log.format);
    match server::run(config) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut(open)) => {
            journal::say(&format!("dingospeed: server.drain_timeout has passed; connections cut: {open}"));
            ExitCode::SUCCESS
        }
        Ok(Ended::AtOnce) => ExitCode::from(INTERRUPTED),
        Err(error) => failed(&error),
    }
}

fn fetch(config: Config, asked: &pull::Pull) -> ExitCode {
    // The progress bar has the screen; what the mirror logs for each request would tear it.
    journal::start("error", LogFormat::Text);
    match server::mirror_for(&config) {
        Ok(mirror) => {
            if let server::MirrorAt::Elsewhere { address, upstream } = &mirror {
                eprintln!("pulling through the mirror at {address}, which has this directory and asks {upstream}");
            }
            pull::run(asked, mirror.address())
        }
        Err(error) => failed(&error),
    }
}

/// Runs a command that looks at the directory beside whoever serves from it.
fn beside(config: &Config, command: impl FnOnce(&View) -> ExitCode) -> ExitCode {
    journal::start("warn", LogFormat::Text);
    match View::open(&config.store.repos) {
        Ok(view) => command(&view),
        Err(error) => failed(&error),
    }
}

fn find_keeper(config: &Config) -> Result<Keeper, AskError> {
    let options = StoreOptions { block_size: config.store.block_size };
    Keeper::find(&config.store.repos, options, server::limits(config))
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    journal::say(&format!("dingospeed: {error}"));
    ExitCode::FAILURE
}
