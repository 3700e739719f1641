//! The command line: what may be written there, and what it comes to.
//!
//! Two steps: clap's structs are what was written; [`read`] turns them, with the file they name, into a checked [`Command`],
//! or into the list of everything that is wrong with it.

use crate::{
    commands::{
        keep::{Chosen, Rm},
        ls::{Depth, Filter, Format, Ls, Sort},
        pull::{Pull, Wanted},
        verify::Verify,
    },
    config::Config,
    hub::{RepoId, RepoKind, Revision},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderValue, Uri};
use std::{fs, path::PathBuf};

/// A command whose every argument has been checked.
#[derive(Debug)]
pub enum Command {
    Serve(Config),
    Pull(Config, Pull),
    Ls(Config, Ls),
    Rm(Config, Rm),
    Gc { config: Config, dry_run: bool },
    Verify(Config, Verify),
    Pin { config: Config, chosen: Chosen, lift: bool },
    Status(Uri),
    StatusOf(PathBuf),
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
    /// Fetch a repository into the cache, through the running mirror of the directory if there is one.
    Pull {
        /// The repository: owner/name.
        repo: String,
        /// What kind of repository it is.
        #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "model")]
        kind: Kind,
        /// Branch, tag or commit.
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
        /// The order: the largest on disk first, the last read first, or by name.
        #[arg(long, value_name = "KEY", value_enum, default_value = "name")]
        sort: SortKey,
        /// How to print.
        #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
        format: FormatName,
        /// Print names only: --format quiet.
        #[arg(long, short, conflicts_with = "format")]
        quiet: bool,
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
    /// Ask a running mirror whether it is well; prints its answer.
    Status {
        /// The mirror's address.
        #[arg(long, default_value = "http://127.0.0.1:8090")]
        url: String,
        /// Ask the server of this directory instead, about itself and its disk.
        #[arg(long, value_name = "DIR", conflicts_with = "url")]
        repos: Option<PathBuf>,
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

/// Some repositories.
#[derive(Debug, Args)]
struct Named {
    /// The repositories: owner/name, or datasets/owner/name as `ls` prints them.
    #[arg(value_name = "REPO", required = true)]
    names: Vec<String>,
    /// What kind they are of [default: model].
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    kind: Option<Kind>,
    /// Branch, tag or commit; without it all of each repository is meant.
    #[arg(long)]
    revision: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SortKey {
    Size,
    Used,
    Name,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Table,
    Json,
    Quiet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Model,
    Dataset,
    Space,
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
        Verb::Pull { repo, kind, revision, include, exclude, token, settings } => {
            let config = settings.read(&mut mistakes);
            let repo = noted(RepoId::parse(kind.into(), &repo), &mut mistakes);
            let revision = noted(Revision::parse(&revision), &mut mistakes);
            let wanted = Wanted::new(&include, &exclude, &mut mistakes);
            let authorization = token.filter(|token| !token.is_empty()).and_then(|token| bearer(&token, &mut mistakes));
            match (repo, revision) {
                (Some(repo), Some(revision)) => Some(Command::Pull(config, Pull { repo, revision, wanted, authorization })),
                _ => None,
            }
        }
        Verb::Ls { filter, revisions, files, sort, format, quiet, settings } => {
            let config = settings.read(&mut mistakes);
            let filter = filter.and_then(|filter| noted(Filter::parse(&filter), &mut mistakes));
            let depth = match (revisions, files) {
                (_, true) => Depth::Files,
                (true, _) => Depth::Revisions,
                _ => Depth::Repos,
            };
            let sort = match sort {
                SortKey::Size => Sort::Size,
                SortKey::Used => Sort::Used,
                SortKey::Name => Sort::Name,
            };
            let format = match format {
                _ if quiet => Format::Quiet,
                FormatName::Table => Format::Table,
                FormatName::Json => Format::Json,
                FormatName::Quiet => Format::Quiet,
            };
            Some(Command::Ls(config, Ls { filter, depth, sort, format }))
        }
        Verb::Rm { named, dry_run, yes, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Rm(config, Rm { chosen: named.read(&mut mistakes), dry_run, yes }))
        }
        Verb::Gc { dry_run, settings } => Some(Command::Gc { config: settings.read(&mut mistakes), dry_run }),
        Verb::Verify { names, kind, repair, settings } => {
            let config = settings.read(&mut mistakes);
            let repos = names.iter().filter_map(|text| noted(repo(kind, text), &mut mistakes)).collect();
            Some(Command::Verify(config, Verify { repos, repair }))
        }
        Verb::Pin { named, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: false })
        }
        Verb::Unpin { named, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: true })
        }
        Verb::Status { repos: Some(root), .. } => Some(Command::StatusOf(root)),
        Verb::Status { url, repos: None } => {
            let url: Option<Uri> = noted(url.parse().map_err(|error| format!("--url `{url}`: {error}")), &mut mistakes);
            if let Some(url) = url.as_ref().filter(|url| url.scheme_str() != Some("http") || url.host().is_none()) {
                mistakes.push(format!("--url `{url}`: write http://HOST:PORT; the mirror itself speaks no TLS"));
            }
            url.map(Command::Status)
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

impl Named {
    fn read(&self, mistakes: &mut Vec<String>) -> Chosen {
        let repos = self.names.iter().filter_map(|text| noted(repo(self.kind, text), mistakes)).collect();
        let revision = self.revision.as_ref().and_then(|revision| noted(Revision::parse(revision), mistakes));
        Chosen { repos, revision }
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
        read_token(&mut config, mistakes);
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

/// Puts the content of `upstream.token_file` where the rest of the program looks for it.
fn read_token(config: &mut Config, mistakes: &mut Vec<String>) {
    let path = config.upstream.token_file.clone();
    if path.as_os_str().is_empty() {
        return;
    }
    match fs::read_to_string(&path) {
        Ok(text) => set(config, "upstream.token", Some(text.trim()), mistakes),
        Err(error) => mistakes.push(format!("upstream.token_file = `{}`: {error}", path.display())),
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

impl From<Kind> for RepoKind {
    fn from(kind: Kind) -> RepoKind {
        match kind {
            Kind::Model => RepoKind::Model,
            Kind::Dataset => RepoKind::Dataset,
            Kind::Space => RepoKind::Space,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        check("x pull a/b/c --revision .. --include [ --exclude {", &["a/b/c", "revision", "--include", "--exclude"]);
        check("x rm a/b/c models/.. --revision a//b --repos=", &["store.repos", "a/b/c", "`..`", "a//b"]);
        check("x ls [ --set eviction.strategy=mru", &["eviction.strategy", "FILTER"]);
        check("x status --url https://x", &["no TLS"]);
        check("x check --set log.level=loud", &["log.level"]);
    }
}
