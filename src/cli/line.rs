//! What may be written on the command line, as clap has it. What of that makes sense is for [`super::check`].

use crate::{commands::ls::Format, hub::RepoKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "dingospeed", version, about = "A mirror of the Hugging Face Hub: what one client has fetched is here for all.")]
#[command(
    after_help = "Without --config the defaults hold; no file is read unless it is named. conf/dingospeed.yaml shows every key."
)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Serve the Hub's clients, until SIGTERM (completes running responses) or Ctrl-C (ends at once).
    Serve {
        #[command(flatten)]
        settings: Settings,
        /// Where clients connect; port 0 takes any free one [default: 127.0.0.1:8090].
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<String>,
        /// Serve only what is kept and never ask upstream.
        #[arg(long)]
        offline: bool,
    },
    /// Fetch repositories into the cache, through the running mirror of the directory if there is one.
    ///
    /// One that fails does not keep the others from being fetched; the exit code is 1 then.
    Pull {
        /// The repositories: owner/name or datasets/owner/name, each with @revision if it is to have one of its own.
        #[arg(value_name = "REPO", required_unless_present = "list")]
        names: Vec<String>,
        /// Fetch those that this file names too: one in a line, written as above; `#` begins a comment, `-` reads stdin.
        #[arg(long, value_name = "FILE")]
        list: Option<PathBuf>,
        /// What kind of repositories they are, where they do not say so themselves [default: model].
        #[arg(long = "type", value_name = "TYPE", value_enum)]
        kind: Option<Kind>,
        /// Branch, tag or commit, where they do not say so themselves.
        #[arg(long, default_value = "main")]
        revision: String,
        /// Fetch only files that match; may be given again. `*` also matches slashes.
        #[arg(long, value_name = "GLOB")]
        include: Vec<String>,
        /// Leave out files that match; may be given again, and wins over --include.
        #[arg(long, value_name = "GLOB")]
        exclude: Vec<String>,
        /// Access token of the Hub, for gated and private repositories.
        #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
        token: Option<String>,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// List what is kept: repositories, their revisions, their files.
    Ls {
        /// Only repositories whose name holds this text, or matches this pattern (`meta/*`).
        filter: Option<String>,
        /// List each revision on a line of its own.
        #[arg(long)]
        revisions: bool,
        /// List each file on a line of its own.
        #[arg(long, conflicts_with = "revisions")]
        files: bool,
        /// Only repositories for which this holds: size>10GB (on disk), accessed>30d (not read for so long), type=dataset, complete=false,
        /// pinned=true (all or a part); with > >= < <= = !=. May be given again; then all must hold.
        #[arg(long = "filter", short = 'f', value_name = "CONDITION")]
        conditions: Vec<String>,
        /// The order: size (the largest on disk first), used (the last read first; accessed means the same), name; with :asc or :desc the
        /// other way round.
        #[arg(long, value_name = "KEY", default_value = "name")]
        sort: String,
        /// List no more than so many repositories, the first ones of the order.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove repositories, or one revision of each, from the cache. What others share stays.
    Rm {
        #[command(flatten)]
        named: Named,
        /// Say what would be removed and leave it.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Evict what passes the limits of `eviction.*`, and clear away what leads nowhere.
    ///
    /// A running server does it by its own configuration; without one that of this command counts.
    Gc {
        /// Say what would go and leave it.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Check everything that is kept against checksums and hashes. Exit code 1 while something is broken.
    Verify {
        /// Check only these repositories: owner/name, or datasets/owner/name.
        #[arg(value_name = "REPO")]
        names: Vec<String>,
        /// What kind the repositories are of [default: model].
        #[arg(long = "type", value_name = "TYPE", value_enum)]
        kind: Option<Kind>,
        /// Drop what is broken, so that it is fetched again.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Keep repositories, or one revision of each, from being evicted or removed. Without any, list the pins.
    ///
    /// What is not kept yet may be pinned, too: it stays as soon as it is.
    #[command(mut_arg("names", |names| names.required(false)))]
    Pin {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lift pins, named as they were set.
    Unpin {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Take over what DingoSpeed, Olah or the Hugging Face client have on disk. Nothing there is changed.
    ///
    /// Every file is proven by its hash. Where the file system can, bytes are shared with the source; else they are copied. Run it again
    /// when it was broken off: what is here is not read again.
    Import {
        /// DingoSpeed's or Olah's `repos`, or ~/.cache/huggingface.
        dir: PathBuf,
        /// Only repositories whose name holds this text, or matches this pattern (`meta/*`).
        filter: Option<String>,
        /// Whose layout it is; without it that is found out by looking.
        #[arg(long, value_name = "LAYOUT", value_enum)]
        from: Option<LayoutName>,
        /// Say what would be imported, and import nothing.
        #[arg(long)]
        dry_run: bool,
        /// Let anybody read, also while the Hub cannot be asked, what the source does not say is private or gated.
        #[arg(long)]
        open: bool,
        /// Do not ask the Hub about what the source does not tell: who may read, and which files there are.
        #[arg(long)]
        offline: bool,
        /// Access token of the Hub, with which it is asked about gated and private repositories.
        #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
        token: Option<String>,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Write repositories into one tar, for a site without a network. Read it there with `load`.
    Export {
        #[command(flatten)]
        named: Named,
        /// The tar; `-` writes to stdout.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Take in what `export` wrote. Every file is proven by its hash; run it again when it was broken off.
    Load {
        /// The tar; `-` reads stdin.
        file: PathBuf,
        /// Say what is in it, and load nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
    /// Ask a running mirror whether it is well, and with --repos or --config what it is doing.
    Status {
        /// The mirror's address.
        #[arg(long, default_value = "http://127.0.0.1:8090")]
        url: String,
        /// Ask the server of this directory instead, about itself and its disk.
        #[arg(long, value_name = "DIR", conflicts_with = "url")]
        repos: Option<PathBuf>,
        /// Ask the server of the directory that this configuration names.
        #[arg(long, value_name = "FILE", conflicts_with = "url")]
        config: Option<PathBuf>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Print a script that completes this program's commands and flags in a shell.
    Completions {
        /// The shell: bash, zsh, fish, powershell, elvish.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the program or of one command (`dingospeed man import | man -l -`).
    Man {
        /// The command.
        command: Option<String>,
        /// Write all of them into this directory instead.
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
    },
    /// Check the configuration and say everything that is wrong with it, without starting anything.
    Check {
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        settings: Settings,
    },
}

/// What overlays the defaults: the file first, then --set in its order, then the named flags.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// Configuration file, YAML. Without it the defaults hold: no file is looked for.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Directory in which everything is kept [default: ./repos].
    #[arg(long, value_name = "DIR")]
    pub(super) repos: Option<String>,
    /// The Hub, or another mirror of it [default: https://huggingface.co].
    #[arg(long, value_name = "URL")]
    pub(super) upstream: Option<String>,
    /// Set any key of the configuration, for example server.threads=4; may be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) sets: Vec<String>,
}

/// How the outcome is printed.
#[derive(Debug, Args)]
pub(super) struct Shown {
    /// For people, as one JSON value, or no more than names for the next command.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    pub(super) format: FormatName,
    /// The same as --format json.
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    pub(super) json: bool,
    /// The same as --format quiet.
    #[arg(long, short, conflicts_with = "format")]
    pub(super) quiet: bool,
}

/// Some repositories.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The repositories: owner/name, or datasets/owner/name as `ls` prints them; each with @revision if only that one is meant.
    #[arg(value_name = "REPO", required = true)]
    pub(super) names: Vec<String>,
    /// What kind they are of [default: model].
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    pub(super) kind: Option<Kind>,
    /// Branch, tag or commit, where they do not say so themselves; without it all of each repository is meant.
    #[arg(long)]
    pub(super) revision: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FormatName {
    Table,
    Json,
    Quiet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LayoutName {
    Dingospeed,
    Olah,
    Huggingface,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    Model,
    Dataset,
    Space,
    Kernel,
}

impl From<FormatName> for Format {
    fn from(format: FormatName) -> Format {
        match format {
            FormatName::Table => Format::Table,
            FormatName::Json => Format::Json,
            FormatName::Quiet => Format::Quiet,
        }
    }
}

impl From<Kind> for RepoKind {
    fn from(kind: Kind) -> RepoKind {
        match kind {
            Kind::Model => RepoKind::Model,
            Kind::Dataset => RepoKind::Dataset,
            Kind::Space => RepoKind::Space,
            Kind::Kernel => RepoKind::Kernel,
        }
    }
}
