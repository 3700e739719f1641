//! The command line: what may be written there, and what it comes to.
//!
//! Two steps: clap's structs are what was written; [`read`] turns them, with the file they name, into a checked [`Command`],
//! or into the list of everything that is wrong with it.

mod line;
mod mistakes;
mod pages;
mod settings;
mod words;

pub use mistakes::Mistakes;
pub use pages::{completions, man, man_pages};

use crate::{
    commands::{
        condition::Condition,
        export::Export,
        import::{Import, Layout},
        keep::{Chosen, Rm},
        load::Load,
        ls::{Depth, Filter, Format, Ls},
        pull::{Pull, Wanted},
        verify::Verify,
    },
    config::Config,
    server,
};
use clap::{CommandFactory, Parser};
use http::Uri;
use line::{LayoutName, Line, Verb};
use settings::{authorization, noted, read_file, set};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};
use words::{order, read_list, repo, repo_at};

/// A command whose every argument has been checked.
#[derive(Debug)]
pub enum Command {
    Serve(Config),
    Pull(Config, Pull),
    Ls(Config, Ls),
    Rm(Config, Rm),
    Gc {
        config: Config,
        dry_run: bool,
        format: Format,
    },
    Verify(Config, Verify),
    Pin {
        config: Config,
        chosen: Chosen,
        lift: bool,
        format: Format,
    },
    Pins(Config, Format),
    Import(Config, Import),
    Export(Config, Export),
    Load(Config, Load),
    Status(Uri, Format),
    StatusOf(PathBuf, Format),
    Completions(clap_complete::Shell),
    Man {
        verb: Option<String>,
        dir: Option<PathBuf>,
    },
    /// What is wrong with the configuration and the files it names, and what is not quite right.
    Check {
        mistakes: Mistakes,
        warning: Option<String>,
        format: Format,
    },
}

/// Reads this process's command line. On a mistake in its form clap says so and ends the process with code 2; mistakes in what
/// it says are returned, all of them.
pub fn read() -> Result<Command, Mistakes> {
    check(Line::parse().verb)
}

fn check(verb: Verb) -> Result<Command, Mistakes> {
    let mut mistakes = Mistakes::default();
    let command = match verb {
        Verb::Serve { settings, listen, offline } => {
            let mut config = settings.read(&mut mistakes);
            set(&mut config, "server.listen", listen.as_deref(), &mut mistakes);
            set(&mut config, "upstream.offline", offline.then_some("true"), &mut mistakes);
            Some(Command::Serve(config))
        }
        Verb::Pull { names, list, kind, revision, include, exclude, token, shown, settings } => {
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
            let mut wrong = Vec::new();
            let wanted = Wanted::new(&include, &exclude, &mut wrong);
            mistakes.extend(wrong);
            let authorization = authorization(token, &mut mistakes);
            Some(Command::Pull(config, Pull { repos: named, wanted, authorization, format: shown.format() }))
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
        Verb::Pin { named, shown, settings } => {
            let config = settings.read(&mut mistakes);
            if named.names.is_empty() {
                if named.kind.is_some() || named.revision.is_some() {
                    mistakes.push("--type and --revision are about repositories, of which none is named".to_owned());
                }
                Some(Command::Pins(config, shown.format()))
            } else {
                Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: false, format: shown.format() })
            }
        }
        Verb::Unpin { named, shown, settings } => {
            let config = settings.read(&mut mistakes);
            Some(Command::Pin { config, chosen: named.read(&mut mistakes), lift: true, format: shown.format() })
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
                mistakes.push(
                    "--output -: the tar takes stdout, where --format json and quiet are written too; name a file".to_owned(),
                );
            }
            Some(Command::Export(config, Export { chosen: named.read(&mut mistakes), output, format }))
        }
        Verb::Load { file, dry_run, shown, settings } => {
            Some(Command::Load(settings.read(&mut mistakes), Load { input: file, dry_run, format: shown.format() }))
        }
        Verb::Status { repos: Some(root), shown, .. } => Some(Command::StatusOf(root, shown.format())),
        Verb::Status { config: Some(path), shown, .. } => {
            Some(Command::StatusOf(read_file(&path, &mut mistakes).store.repos, shown.format()))
        }
        Verb::Status { url, shown, .. } => {
            let url: Option<Uri> = noted(url.parse().map_err(|error| format!("--url `{url}`: {error}")), &mut mistakes);
            if let Some(url) = url.as_ref().filter(|url| url.scheme_str() != Some("http") || url.host().is_none()) {
                mistakes.push(format!(
                    "--url `{url}`: write http://HOST:PORT, the address of server.listen; this command speaks no TLS"
                ));
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
        Verb::Check { shown, settings } => {
            let config = settings.read(&mut mistakes);
            // A server would try again, too: the files may be renewed by then.
            let warning = server::check(&config).unwrap_or_else(|error| {
                mistakes.push_unread(error.to_string());
                None
            });
            // They are what was asked for.
            Some(Command::Check { mistakes: std::mem::take(&mut mistakes), warning, format: shown.format() })
        }
    };
    match command {
        Some(command) if mistakes.is_empty() => Ok(command),
        _ => Err(mistakes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::ls::Sort,
        hub::{RepoId, Revision},
    };
    use clap::ValueEnum;
    use line::Kind;
    use std::fs;

    fn line(words: &str) -> Result<Command, Vec<String>> {
        check(Line::try_parse_from(words.split(' ')).unwrap().verb).map_err(|mistakes| mistakes.lines().to_vec())
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
        let told = line(&format!("x serve --set upstream.token_file={}", file.path().display())).unwrap_err();
        assert!(told.len() == 1 && !told[0].contains("hush"), "{told:?}");
        assert!(line("x serve --set upstream.token_file=/nowhere").unwrap_err()[0].contains("/nowhere"));
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
        check(Some(Kind::Dataset), "datasets/org/d", "datasets/org/d");
        let why = repo(Some(Kind::Model), "datasets/org/d").unwrap_err();
        assert!(why.contains("is a dataset by its name, but --type says model"), "{why}");
    }

    #[test]
    fn repos_are_pulled_from_a_list_and_each_once() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(&list, "\u{feff}# ours\n\n org/a \ndatasets/org/d@v1.0 # weekly\nmodels/gpt2@refs/pr/1\n").unwrap();
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
    fn pin_alone_lists_and_no_other_command_goes_without_repos() {
        assert!(matches!(line("x pin --repos /a -q"), Ok(Command::Pins(_, Format::Quiet))));
        assert!(line("x pin --revision main").unwrap_err()[0].contains("none is named"));
        for words in ["x unpin", "x rm --yes", "x export -o /a"] {
            assert!(Line::try_parse_from(words.split(' ')).is_err(), "{words}");
        }
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
        let Ok(Command::Check { mistakes, .. }) = line("x check --set log.level=loud") else {
            panic!("a check says what it found")
        };
        assert!(mistakes.len() == 1 && mistakes.lines()[0].contains("log.level"), "{mistakes:?}");
    }
}
