//! The command line: what may be written there, and what it comes to.
//!
//! Two steps: clap's structs are what was written; [`read`] turns them, with the file they name, into a checked [`Command`],
//! or into the list of everything that is wrong with it.

use crate::{
    commands::{
        condition::Condition,
        export::Export,
        import::{Import, Layout},
        keep::{Chosen, Rm},
        load::Load,
        ls::{Depth, Filter, Format, Ls, Sort},
        pull::{Pull, Wanted},
        verify::Verify,
    },
    config::Config,
    hub::{RepoId, RepoKind, Revision},
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use http::{HeaderValue, Uri};
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

/// A command whose every argument has been checked.
#[derive(Debug)]
pub enum Command {
    Serve(Config),
    Pull(Config, Pull),
    Ls(Config, Ls),
    Rm(Config, Rm),
    Gc { config: Config, dry_run: bool, format: Format },
    Verify(Config, Verify),
    Pin { config: Config, chosen: Chosen, lift: bool },
    Import(Config, Import),
    Export(Config, Export),
    Load(Config, Load),
    Status(Uri, Format),
    StatusOf(PathBuf, Format),
    Completions(clap_complete::Shell),
    Man { verb: Option<String>, dir: Option<PathBuf> },
    Check,
}

#[derive(Debug, Parser)]
#[command(name = "dingospeed", version, about = "A mirror of the Hugging Face Hub: what one client has fetched is here for all.")]
#[command(
    after_help = "Without --config the defaults hold; no file is read unless it is named. conf/dingospeed.yaml shows every key."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
        /// pinned=true; with > >= < <= = !=. May be given again; then all must hold.
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
    /// Keep repositories, or one revision of each, from being evicted or removed.
    Pin {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lift pins, named as they were set.
    Unpin {
        #[command(flatten)]
        named: Named,
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
    /// Ask a running mirror whether it is well, and with --repos what it is doing.
    Status {
        /// The mirror's address.
        #[arg(long, default_value = "http://127.0.0.1:8090")]
        url: String,
        /// Ask the server of this directory instead, about itself and its disk.
        #[arg(long, value_name = "DIR", conflicts_with = "url")]
        repos: Option<PathBuf>,
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
        settings: Settings,
    },
}

/// What overlays the defaults: the file first, then --set in its order, then the named flags.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file, YAML. Without it the defaults hold: no file is looked for.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory in which everything is kept [default: ./repos].
    #[arg(long, value_name = "DIR")]
    repos: Option<String>,
    /// The Hub, or another mirror of it [default: https://huggingface.co].
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Set any key of the configuration, for example server.threads=4; may be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// How the outcome is printed.
#[derive(Debug, Args)]
struct Shown {
    /// For people, as one JSON value, or no more than names for the next command.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: FormatName,
    /// The same as --format json.
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    json: bool,
    /// The same as --format quiet.
    #[arg(long, short, conflicts_with = "format")]
    quiet: bool,
}

/// Some repositories.
#[derive(Debug, Args)]
struct Named {
    /// The repositories: owner/name, or datasets/owner/name as `ls` prints them; each with @revision if only that one is meant.
    #[arg(value_name = "REPO", required = true)]
    names: Vec<String>,
    /// What kind they are of [default: model].
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    kind: Option<Kind>,
    /// Branch, tag or commit, where they do not say so themselves; without it all of each repository is meant.
    #[arg(long)]
    revision: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Table,
    Json,
    Quiet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutName {
    Dingospeed,
    Olah,
    Huggingface,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Model,
    Dataset,
    Space,
    Kernel,
}

/// Reads this process's command line. On a mistake in its form clap says so and ends the process with code 2; mistakes in what
/// it says are returned, all of them, each in one line.
pub fn read() -> Result<Command, Vec<String>> {
    check(Line::parse().verb)
}

fn check(verb: Verb) -> Result<Command, Vec<String>> {
    let mut mistakes = Vec::new();
    let command = match verb {
        Verb::Serve { settings, listen, offline } => {
            let mut config = settings.read(&mut mistakes);
            set(&mut config, "server.listen", listen.as_deref(), &mut mistakes);
            set(&mut config, "upstream.offline", offline.then_some("true"), &mut mistakes);
            Some(Command::Serve(config))
        }
        Verb::Pull { names, list, kind, revision, include, exclude, token, settings } => {
            let config = settings.read(&mut mistakes);
            let mut named = Vec::new();
            for text in &names {
                named.extend(noted(repo_at(kind, text, &revision), &mut mistakes));
            }
            if let Some(list) = list {
                read_list(&list, kind, &revision, &mut named, &mut mistakes);
            }
            let mut seen = HashSet::new();
            named.retain(|one| seen.insert(one.clone()));
            let wanted = Wanted::new(&include, &exclude, &mut mistakes);
            let authorization = authorization(token, &mut mistakes);
            Some(Command::Pull(config, Pull { repos: named, wanted, authorization }))
        }
        Verb::Ls { filter, revisions, files, conditions, sort, limit, shown, settings } => {
            let config = settings.read(&mut mistakes);
            let filter = filter.and_then(|filter| noted(Filter::parse(&filter), &mut mistakes));
            let depth = match (revisions, files) {
                (_, true) => Depth::Files,
                (true, _) => Depth::Revisions,
                _ => Depth::Repos,
            };
            let conditions = conditions.iter().filter_map(|text| noted(Condition::parse(text), &mut mistakes)).collect();
            let (sort, reversed) = noted(order(&sort), &mut mistakes).unwrap_or_default();
            Some(Command::Ls(config, Ls { filter, conditions, depth, sort, reversed, limit, format: shown.format() }))
        }
        Verb::Rm { named, dry_run, yes, shown, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Rm(config, Rm { chosen: named.read(&mut mistakes), dry_run, yes, format: shown.format() }))
        }
        Verb::Gc { dry_run, shown, settings } => {
            Some(Command::Gc { config: settings.read(&mut mistakes), dry_run, format: shown.format() })
        }
        Verb::Verify { names, kind, repair, shown, settings } => {
            let config = settings.read(&mut mistakes);
            let repos = names.iter().filter_map(|text| noted(repo(kind, text), &mut mistakes)).collect();
            Some(Command::Verify(config, Verify { repos, repair, format: shown.format() }))
        }
        Verb::Pin { named, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: false })
        }
        Verb::Unpin { named, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: true })
        }
        Verb::Import { dir, filter, from, dry_run, open, offline, token, shown, settings } => {
            let mut config = settings.read(&mut mistakes);
            set(&mut config, "upstream.offline", offline.then_some("true"), &mut mistakes);
            let filter = filter.and_then(|filter| noted(Filter::parse(&filter), &mut mistakes));
            let from = from.map(|from| match from {
                LayoutName::Dingospeed => Layout::DingoSpeed,
                LayoutName::Olah => Layout::Olah,
                LayoutName::Huggingface => Layout::HuggingFace,
            });
            let authorization = authorization(token, &mut mistakes);
            Some(Command::Import(config, Import { dir, from, filter, dry_run, open, authorization, format: shown.format() }))
        }
        Verb::Export { named, output, shown, settings } => {
            let config = settings.read(&mut mistakes);
            let format = shown.format();
            if format != Format::Table && output == Path::new("-") {
                mistakes.push("--output -: the tar takes stdout, where --format json and quiet are written too; name a file".to_owned());
            }
            Some(Command::Export(config, Export { chosen: named.read(&mut mistakes), output, format }))
        }
        Verb::Load { file, dry_run, shown, settings } => {
            Some(Command::Load(settings.read(&mut mistakes), Load { input: file, dry_run, format: shown.format() }))
        }
        Verb::Status { repos: Some(root), shown, .. } => Some(Command::StatusOf(root, shown.format())),
        Verb::Status { url, repos: None, shown } => {
            let url: Option<Uri> = noted(url.parse().map_err(|error| format!("--url `{url}`: {error}")), &mut mistakes);
            if let Some(url) = url.as_ref().filter(|url| url.scheme_str() != Some("http") || url.host().is_none()) {
                mistakes.push(format!("--url `{url}`: write http://HOST:PORT, the address of server.listen; this command speaks no TLS"));
            }
            url.map(|url| Command::Status(url, shown.format()))
        }
        Verb::Completions { shell } => Some(Command::Completions(shell)),
        Verb::Man { command, dir } => {
            if let Some(name) = command.as_ref().filter(|name| Line::command().find_subcommand(name).is_none()) {
                mistakes.push(format!("there is no command `{name}`"));
            }
            Some(Command::Man { verb: command, dir })
        }
        Verb::Check { settings } => {
            settings.read(&mut mistakes);
            Some(Command::Check)
        }
    };
    match command {
        Some(command) if mistakes.is_empty() => Ok(command),
        _ => Err(mistakes),
    }
}

impl Shown {
    fn format(&self) -> Format {
        match self {
            Shown { quiet: true, .. } => Format::Quiet,
            Shown { json: true, .. } => Format::Json,
            Shown { format, .. } => (*format).into(),
        }
    }
}

impl Named {
    fn read(&self, mistakes: &mut Vec<String>) -> Chosen {
        let read = |text: &String| match text.contains('@') {
            true => repo_at(self.kind, text, "").map(|(repo, revision)| (repo, Some(revision))),
            false => repo(self.kind, text).map(|repo| (repo, None)),
        };
        let mut named: Vec<_> = self.names.iter().filter_map(|text| noted(read(text), mistakes)).collect();
        if let Some(revision) = self.revision.as_ref().and_then(|revision| noted(Revision::parse(revision), mistakes)) {
            for (_, own) in &mut named {
                own.get_or_insert_with(|| revision.clone());
            }
        }
        Chosen { named }
    }
}

/// Reads the order of a list, and whether it is the other way round than usual: the largest and the latest come first, names in theirs.
fn order(text: &str) -> Result<(Sort, bool), String> {
    let (key, way) = text.split_once(':').unwrap_or((text, ""));
    let (sort, usual) = match key {
        "size" => (Sort::Size, "desc"),
        "used" | "accessed" => (Sort::Used, "desc"),
        "name" => (Sort::Name, "asc"),
        _ => return Err(format!("--sort `{text}`: write size, used (or accessed) or name, perhaps with :asc or :desc")),
    };
    match way {
        "" | "asc" | "desc" => Ok((sort, !way.is_empty() && way != usual)),
        _ => Err(format!("--sort `{text}`: after the colon write asc or desc")),
    }
}

/// Reads `owner/name` of the kind that --type says, or `datasets/owner/name`, which is how `ls` prints it and the Hub's
/// addresses are made.
fn repo(kind: Option<Kind>, text: &str) -> Result<RepoId, String> {
    let told = text.split_once('/').and_then(|(word, name)| Some((RepoKind::from_plural(word)?, name)));
    let repo = match (kind, told) {
        (None, Some((kind, name))) => RepoId::parse(kind, name),
        (kind, _) => RepoId::parse(kind.unwrap_or(Kind::Model).into(), text),
    };
    repo.map_err(|error| error.to_string())
}

/// Reads a repo as [`repo`] does, with the `@revision` behind it if there is one.
fn repo_at(kind: Option<Kind>, text: &str, revision: &str) -> Result<(RepoId, Revision), String> {
    let (name, revision) = text.split_once('@').unwrap_or((text, revision));
    let revision = Revision::parse(revision).map_err(|error| format!("{text}: {error}"))?;
    Ok((repo(kind, name)?, revision))
}

/// Reads the repos that a file names; its mistakes are told with their lines.
fn read_list(path: &Path, kind: Option<Kind>, revision: &str, repos: &mut Vec<(RepoId, Revision)>, mistakes: &mut Vec<String>) {
    let shown = path.display();
    let text = match path == Path::new("-") {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let Some(text) = noted(text.map_err(|error| format!("--list {shown}: {error}")), mistakes) else { return };
    let before = repos.len() + mistakes.len();
    for (index, line) in text.lines().enumerate() {
        // No name holds a `#`; a revision might, but not after a space.
        let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
        if !line.is_empty() && !line.starts_with('#') {
            let read = repo_at(kind, line, revision).map_err(|error| format!("--list {shown}:{}: {error}", index + 1));
            repos.extend(noted(read, mistakes));
        }
    }
    if repos.len() + mistakes.len() == before {
        mistakes.push(format!("--list {shown}: it names no repository"));
    }
}

fn authorization(token: Option<String>, mistakes: &mut Vec<String>) -> Option<HeaderValue> {
    token.filter(|token| !token.is_empty()).and_then(|token| bearer(&token, mistakes))
}

/// Writes the script with which a shell completes our commands.
pub fn completions(shell: clap_complete::Shell, output: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut Line::command(), "dingospeed", output);
}

/// Writes the manual page of the program, or of one of its commands.
pub fn man(verb: Option<&str>, output: &mut dyn io::Write) -> io::Result<()> {
    let mut line = Line::command().disable_help_subcommand(true);
    // Gives the commands their full names and the flags that all have.
    line.build();
    let page = match verb.and_then(|verb| line.find_subcommand(verb)) {
        None => line,
        Some(command) => {
            let name = format!("dingospeed-{}", command.get_name());
            command.clone().display_name(name)
        }
    };
    clap_mangen::Man::new(page).render(output)
}

/// Writes all manual pages into a directory, which is made. Returns how many.
pub fn man_pages(dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let line = Line::command();
    let verbs: Vec<Option<&str>> = line.get_subcommands().map(|verb| Some(verb.get_name())).chain([None]).collect();
    for verb in &verbs {
        let name = verb.map_or_else(|| "dingospeed.1".to_owned(), |verb| format!("dingospeed-{verb}.1"));
        let mut page = Vec::new();
        man(*verb, &mut page)?;
        fs::write(dir.join(name), page)?;
    }
    Ok(verbs.len())
}

impl Settings {
    fn read(&self, mistakes: &mut Vec<String>) -> Config {
        let mut config = self.config.as_ref().map_or_else(Config::default, |path| read_file(path, mistakes));
        for pair in &self.sets {
            match pair.split_once('=') {
                Some((key, value)) => set(&mut config, key.trim(), Some(value), mistakes),
                None => mistakes.push(format!("--set {pair}: write KEY=VALUE, for example --set server.threads=4")),
            }
        }
        set(&mut config, "store.repos", self.repos.as_deref(), mistakes);
        set(&mut config, "upstream.url", self.upstream.as_deref(), mistakes);
        let (upstream, admin) = (config.upstream.token_file.clone(), config.admin.token_file.clone());
        read_token(&mut config, "upstream.token", &upstream, mistakes);
        read_token(&mut config, "admin.token", &admin, mistakes);
        mistakes.extend(config.admin.mistake());
        config
    }
}

/// Returns the defaults when the file is wrong, so that the flags are still checked.
fn read_file(path: &PathBuf, mistakes: &mut Vec<String>) -> Config {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("--config {shown}: {error}"));
            return Config::default();
        }
    };
    Config::from_yaml(&text).unwrap_or_else(|found| {
        mistakes.extend(found.iter().map(|mistake| format!("{shown}: {mistake}")));
        Config::default()
    })
}

/// Puts the content of a token's file where the rest of the program looks for it.
fn read_token(config: &mut Config, key: &str, path: &Path, mistakes: &mut Vec<String>) {
    if path.as_os_str().is_empty() {
        return;
    }
    match fs::read_to_string(path) {
        // An empty token would be none at all, which is not what a file of it means.
        Ok(text) if text.trim().is_empty() => mistakes.push(format!("{key}_file = `{}`: the file is empty", path.display())),
        Ok(text) => set(config, key, Some(text.trim()), mistakes),
        Err(error) => mistakes.push(format!("{key}_file = `{}`: {error}", path.display())),
    }
}

fn set(config: &mut Config, key: &str, value: Option<&str>, mistakes: &mut Vec<String>) {
    if let Some(value) = value
        && let Err(mistake) = config.apply(key, value)
    {
        mistakes.push(mistake.to_string());
    }
}

fn noted<T, E: ToString>(result: Result<T, E>, mistakes: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| mistakes.push(error.to_string())).ok()
}

/// Never says what the token is.
fn bearer(token: &str, mistakes: &mut Vec<String>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = noted(value.map_err(|_| "--token (or HF_TOKEN) holds characters that no token has"), mistakes)?;
    value.set_sensitive(true);
    Some(value)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Result<Command, Vec<String>> {
        check(Line::try_parse_from(words.split(' ')).unwrap().verb)
    }

    #[test]
    fn the_line_is_well_formed() {
        Line::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "server: {listen: 127.0.0.1:1, threads: 3}\nstore: {repos: /a}").unwrap();
        let path = file.path().display();
        let asked = line(&format!("x serve --config {path} --listen 127.0.0.1:2 --set server.threads=5 --offline"));
        let Ok(Command::Serve(config)) = asked else { panic!("{asked:?}") };
        assert_eq!((config.server.listen.as_str(), config.server.threads), ("127.0.0.1:2", 5));
        assert_eq!((config.store.repos, config.upstream.offline), (PathBuf::from("/a"), true));
    }

    #[test]
    fn a_token_may_stand_in_a_file_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "hf_abc\n").unwrap();
        let asked = line(&format!("x serve --set upstream.token_file={}", file.path().display()));
        let Ok(Command::Serve(config)) = asked else { panic!("{asked:?}") };
        assert_eq!(config.upstream.token.expose(), "hf_abc");
        fs::write(&file, "hush hush").unwrap();
        let told = line(&format!("x check --set upstream.token_file={}", file.path().display())).unwrap_err();
        assert!(told.len() == 1 && !told[0].contains("hush"), "{told:?}");
        assert!(line("x check --set upstream.token_file=/nowhere").unwrap_err()[0].contains("/nowhere"));
    }

    #[test]
    fn a_repo_is_named_as_ls_prints_it_or_by_its_type() {
        fn check(kind: Option<Kind>, text: &str, expected: &str) {
            assert_eq!(repo(kind, text).unwrap().to_string(), expected, "{text}");
        }
        check(None, "org/m", "models/org/m");
        check(None, "gpt2", "models/gpt2");
        check(None, "models/org/m", "models/org/m");
        check(None, "datasets/squad", "datasets/squad");
        check(Some(Kind::Dataset), "org/d", "datasets/org/d");
        check(Some(Kind::Model), "datasets/squad", "models/datasets/squad");
    }

    #[test]
    fn repos_are_pulled_from_a_list_and_each_once() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(&list, "# ours\n\n org/a \ndatasets/org/d@v1.0 # weekly\nmodels/gpt2@refs/pr/1\n").unwrap();
        let asked = line(&format!("x pull org/a b@dev --revision r --list {}", list.path().display()));
        let Ok(Command::Pull(_, pull)) = asked else { panic!("{asked:?}") };
        let named: Vec<String> = pull.repos.iter().map(|(repo, revision)| format!("{repo}@{revision}")).collect();
        assert_eq!(named, ["models/org/a@r", "models/b@dev", "datasets/org/d@v1.0", "models/gpt2@refs/pr/1"]);
        fs::write(&list, "a/b/c\n#\nx@..\n").unwrap();
        let told = line(&format!("x pull --list {}", list.path().display())).unwrap_err();
        assert!(told.len() == 2 && told[0].contains(":1: ") && told[1].contains(":3: "), "{told:?}");
        fs::write(&list, "# none\n").unwrap();
        assert!(line(&format!("x pull --list {}", list.path().display())).unwrap_err()[0].contains("names no repo"));
    }

    #[test]
    fn a_revision_stands_behind_its_repo_or_is_that_of_all() {
        let named = |words: &str| {
            let Ok(Command::Rm(_, rm)) = line(words) else { panic!("{words}") };
            let text = |(repo, revision): &(RepoId, Option<Revision>)| match revision {
                Some(revision) => format!("{repo}@{revision}"),
                None => repo.to_string(),
            };
            rm.chosen.named.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(named("x rm a datasets/o/d@v1"), ["models/a", "datasets/o/d@v1"]);
        assert_eq!(named("x rm a datasets/o/d@v1 --revision dev"), ["models/a@dev", "datasets/o/d@v1"]);
        assert_eq!(named("x rm o/k --type kernel"), ["kernels/o/k"]);
    }

    #[test]
    fn an_order_is_named_as_hf_cache_names_it() {
        fn check(text: &str, expected: Option<(Sort, bool)>) {
            assert_eq!(order(text).ok(), expected, "{text}");
        }
        check("size", Some((Sort::Size, false)));
        check("size:desc", Some((Sort::Size, false)));
        check("size:asc", Some((Sort::Size, true)));
        check("accessed:asc", Some((Sort::Used, true)));
        check("name:asc", Some((Sort::Name, false)));
        check("name:desc", Some((Sort::Name, true)));
        check("weight", None);
        check("size:up", None);
    }

    #[test]
    fn every_command_has_a_page_and_every_shell_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let count = man_pages(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count);
        let page = fs::read_to_string(dir.path().join("dingospeed-import.1")).unwrap();
        assert!(page.contains("dingospeed\\-import") && page.contains("dry\\-run"), "{page}");
        let top = fs::read_to_string(dir.path().join("dingospeed.1")).unwrap();
        assert!(top.contains("export") && top.contains("load"), "{top}");
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            completions(*shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("dry-run") && script.contains("import"), "{shell}: {script}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        fn check(words: &str, expected: &[&str]) {
            let mistakes = line(words).unwrap_err();
            assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
            for (mistake, part) in mistakes.iter().zip(expected) {
                assert!(mistake.contains(part), "{mistake} lacks {part}");
            }
        }
        check(
            "x serve --listen here --upstream ftp://x --set server.threds=4 --set nonsense --config /nowhere",
            &["/nowhere", "server.threads", "KEY=VALUE", "upstream.url", "server.listen"],
        );
        check("x pull a/b/c --revision .. --include [ --exclude {", &["revision", "--include", "--exclude"]);
        check("x pull a/b/c d/e@.. --list /nowhere", &["a/b/c", "d/e@..", "/nowhere"]);
        check("x import /x [ --set store.repos=", &["store.repos", "FILTER"]);
        check("x man dance", &["dance"]);
        check("x rm a/b/c models/.. --revision a//b --repos=", &["store.repos", "a/b/c", "`..`", "a//b"]);
        check("x ls [ --set eviction.strategy=mru", &["eviction.strategy", "FILTER"]);
        check("x status --url https://x", &["no TLS"]);
        check("x check --set log.level=loud", &["log.level"]);
    }
}
