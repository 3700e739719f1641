//! `dingospeed`: reads the command line, does what it says, and ends with a code that tells how it went.

use dingospeed::{
    admin::{AskError, Keeper},
    cli::{self, Command, Mistakes},
    commands::{check, export, import, keep, kept, load, ls, pull, status, verify},
    config::{Config, LogFormat},
    journal,
    server::{self, Ended},
    store::{StoreOptions, View},
};
use log::Level;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// A request makes some hundred small allocations; with glibc's own allocator a small hit costs a fifth more CPU.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was asked for, or the configuration, is wrong.
const MISTAKEN: u8 = 2;
/// Ended by SIGINT, as shells count it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Serve(config)) => serve(&config),
        Ok(Command::Pull(config, asked)) => fetch(config, &asked),
        Ok(Command::Ls(config, asked)) => beside(&config, |view| ls::run(view, &asked)),
        Ok(Command::Rm(config, asked)) => beside(&config, |view| keep::rm(view, &asked, || find_keeper(&config))),
        Ok(Command::Gc { config, dry_run, format }) => {
            beside(&config, |view| keep::gc(view, dry_run, format, &server::limits(&config), || find_keeper(&config)))
        }
        Ok(Command::Verify(config, asked)) => beside(&config, |view| verify::run(view, &asked, || find_keeper(&config))),
        Ok(Command::Pin { config, chosen, lift, format }) => beside(&config, |view| keep::pin(view, &chosen, lift, format)),
        Ok(Command::Pins(config, format)) => beside(&config, |view| keep::pins(view, format)),
        Ok(Command::Import(config, asked)) => take_over(config, &asked),
        Ok(Command::Export(config, asked)) => beside(&config, |view| export::run(view, &asked)),
        Ok(Command::Load(config, asked)) => {
            journal::start("warn", LogFormat::Text);
            load::run(&config, &asked, || find_keeper(&config))
        }
        Ok(Command::Status(url, format)) => status::run(&url, format),
        Ok(Command::StatusOf(root, format)) => status::of_directory(&root, format),
        Ok(Command::Completions(shell)) => printed(|output| {
            cli::completions(shell, output);
            Ok(())
        }),
        Ok(Command::Man { dir: Some(dir), .. }) => printed(|output| writeln!(output, "wrote {} pages", cli::man_pages(&dir)?)),
        Ok(Command::Man { verb, .. }) => printed(|output| cli::man(verb.as_deref(), output)),
        Ok(Command::Check { mistakes, warning, format }) => match check::run(mistakes.lines(), warning.as_deref(), format) {
            true => ExitCode::SUCCESS,
            false => refused(&mistakes),
        },
        Err(mistakes) => {
            check::say(mistakes.lines());
            refused(&mistakes)
        }
    }
}

/// `MISTAKEN` keeps systemd from another try, which is for what stays wrong until somebody changes it.
fn refused(mistakes: &Mistakes) -> ExitCode {
    if mistakes.may_pass() { ExitCode::FAILURE } else { ExitCode::from(MISTAKEN) }
}

fn serve(config: &Config) -> ExitCode {
    journal::start(&config.log.level, config.log.format);
    match server::run(config) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut(open)) => {
            journal::say(Level::Warn, &format!("dingospeed: server.drain_timeout has passed; connections cut: {open}"));
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
            pull::run(asked, mirror.address(), kept::Kept::new(&config))
        }
        Err(error) => failed(&error),
    }
}

fn take_over(config: Config, asked: &import::Import) -> ExitCode {
    journal::start("error", LogFormat::Text);
    let mirror = || match server::mirror_for(&config) {
        Ok(mirror) => {
            let address = mirror.address();
            Ok((Box::new(mirror) as Box<dyn std::any::Any>, address))
        }
        Err(error) => Err(error.to_string()),
    };
    import::run(&config, asked, || find_keeper(&config), mirror)
}

/// Prints what a script may want; a reader that has seen enough (`| head`) is no fault.
fn printed(print: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> ExitCode {
    let mut text = Vec::new();
    match print(&mut text).and_then(|()| io::stdout().write_all(&text)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::SUCCESS,
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
    journal::say(Level::Error, &format!("dingospeed: {error}"));
    ExitCode::FAILURE
}
