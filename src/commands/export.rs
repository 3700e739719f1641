//! `dingospeed export`: chosen repos as one tar, for sites that the network does not reach. Reads the directory beside a server.

use super::{
    bundle::{MANIFEST, MANIFEST_LEN_MAX, Manifest, OBJECTS, Object, VERSION},
    counted, failed,
    intake::text,
    keep::{Chosen, scopes},
    ls::Format,
    output::Output,
    progress::bar,
    table::Table,
};
use crate::{
    hub::{Commit, Oid, RepoId, Revision, Route},
    store::{CarriedAccess, CarriedAnswer, CarriedFile, CarriedRef, ObjectReader, Parcel, Record, View},
};
use http::Method;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// What to export.
#[derive(Debug)]
pub struct Export {
    pub chosen: Chosen,
    /// `-` stands for stdout.
    pub output: PathBuf,
    pub format: Format,
}

/// Writes the tar. 0 once it is whole; what is not whole here is left out and told.
pub fn run(view: &View, asked: &Export) -> ExitCode {
    match export(view, asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn export(view: &View, asked: &Export) -> Result<(), String> {
    let began = Instant::now();
    let to_stdout = asked.output == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err("a tar is nothing for a terminal: redirect stdout, or name a file with --output".to_owned());
    }
    let mut objects: BTreeMap<Oid, u64> = BTreeMap::new();
    let mut parcels = Vec::new();
    let mut table = Table::new(&["REPO", "FILES", "SIZE", "ACCESS"]);
    let (mut closed, mut repos) = (Vec::new(), Vec::new());
    for scope in scopes(view, &asked.chosen)? {
        let commits = match scope.commit {
            Some(commit) => vec![commit],
            None => view.commits(&scope.repo).map_err(text)?,
        };
        for (index, commit) in commits.iter().enumerate() {
            let (parcel, whole) = parcel(view, &scope.repo, commit, index == 0)?;
            let access = match parcel.access {
                Some(CarriedAccess { open: true, .. }) => "open",
                Some(_) => "closed",
                None => "unknown",
            };
            let len: u64 = whole.values().sum();
            let name = format!("{}@{}", scope.repo, &commit.as_str()[..7]);
            let here =
                parcel.files.iter().filter(|file| Oid::parse(&file.oid).is_some_and(|oid| whole.contains_key(&oid))).count();
            let unknown = if parcel.whole { "" } else { " known" };
            table.row([
                name,
                format!("{here} of {}{unknown}", parcel.files.len()),
                HumanBytes(len).to_string(),
                access.to_owned(),
            ]);
            repos.push(json!({
                "id": parcel.repo,
                "commit": parcel.commit,
                "files": here,
                "files_known": parcel.files.len(),
                "files_known_all": parcel.whole,
                "bytes": len,
                "access": access,
            }));
            if access != "open" && index == 0 {
                closed.push(scope.repo.to_string());
            }
            objects.extend(whole);
            parcels.push(parcel);
        }
    }
    if asked.format == Format::Table {
        eprint!("{}", table.text());
    }
    if objects.is_empty() {
        return Err("no file of these is whole here: nothing to export".to_owned());
    }
    if !closed.is_empty() {
        eprintln!(
            "not open to all, and not where the tar is loaded either: {}. There too only the Hub can let a caller in. The tar itself \
             holds their files for whoever has it",
            closed.join(", ")
        );
    }
    let objects = objects.into_iter().map(|(oid, size)| Object { oid: oid.to_string(), size }).collect();
    let manifest = Manifest { dingospeed_export: VERSION, program: env!("CARGO_PKG_VERSION").to_owned(), objects, parcels };
    let len = if to_stdout {
        write(view, &manifest, &mut io::stdout().lock())?
    } else {
        let named = |why: String| format!("{}: {why}", asked.output.display());
        let told = |error: io::Error| named(format!("it cannot be written: {error}"));
        // Whoever can read the tar has their files, too.
        let mut output = Output::open(&asked.output, !closed.is_empty()).map_err(told)?;
        let len = write(view, &manifest, &mut output).map_err(named)?;
        output.finish().map_err(told)?;
        len
    };
    let (count, seconds) = (manifest.objects.len() as u64, began.elapsed().as_secs_f64());
    match asked.format {
        // The tar may have stdout.
        Format::Table => eprintln!("exported {}, {} in {seconds:.1} s", counted(count, "object"), HumanBytes(len)),
        Format::Json => {
            let exported =
                json!({ "objects": count, "bytes": len, "seconds": seconds, "output": asked.output.to_string_lossy() });
            println!("{}", json!({ "exported": exported, "repos": repos }));
        }
        Format::Quiet => manifest.parcels.iter().for_each(|parcel| println!("{}@{}", parcel.repo, parcel.commit)),
    }
    Ok(())
}

/// Returns what is known of a commit, and which of its objects are whole here, with their sizes.
fn parcel(view: &View, repo: &RepoId, commit: &Commit, first: bool) -> Result<(Parcel, BTreeMap<Oid, u64>), String> {
    let listing = view.listing(repo, commit).map_err(text)?;
    let mut paths: BTreeMap<String, (Oid, Option<u64>)> = BTreeMap::new();
    view.each_link(repo, commit, |path, oid| {
        paths.insert(path, (oid, None));
    })
    .map_err(text)?;
    for (path, file) in &listing.files {
        paths.insert(path.to_string(), (file.oid, Some(file.size)));
    }
    let mut whole = BTreeMap::new();
    let mut files = Vec::new();
    for (path, (oid, listed)) in paths {
        let peek = view.peek(&oid).map_err(text)?;
        if let Some(peek) = peek.filter(|peek| peek.verified && peek.present_len == peek.size) {
            whole.insert(oid, peek.size);
        }
        if let Some(size) = listed.or(peek.map(|peek| peek.size)) {
            files.push(CarriedFile { path, oid: oid.to_string(), size });
        }
    }
    let mut refs = Vec::new();
    for (name, at) in view.refs(repo).map_err(text)? {
        if at == *commit && Commit::parse(&name).is_none() {
            let at = view.ref_at(repo, &name).map_err(text)?.unwrap_or(UNIX_EPOCH);
            refs.push(CarriedRef { name, at_ms: unix_ms(at) });
        }
    }
    let access = view.access(repo).map_err(text)?.map(|kept| CarriedAccess { open: kept.open, at_ms: unix_ms(kept.at) });
    let mut answers = Vec::new();
    for (name, record) in view.answers(repo).map_err(text)? {
        if belongs(view, repo, commit, first, &record)? {
            answers.extend(CarriedAnswer::of(&name, &record));
        }
    }
    let (repo, commit) = (repo.to_string(), commit.to_string());
    Ok((Parcel { repo, commit, refs, access, whole: listing.complete && !listing.left_out, files, answers }, whole))
}

/// Tells whether an answer goes with this commit. What is of no commit goes with the `first`.
fn belongs(view: &View, repo: &RepoId, commit: &Commit, first: bool, record: &Record) -> Result<bool, String> {
    let Ok(route) = Route::parse(&Method::GET, &record.target) else { return Ok(false) };
    let of = |revision: &Revision| Ok(view.resolve(repo, revision.as_str()).map_err(text)?.as_ref() == Some(commit));
    match &route {
        Route::RepoInfo { revision: Some(revision), .. } | Route::Tree { revision, .. } | Route::Commits { revision, .. } => {
            of(revision)
        }
        _ => Ok(first),
    }
}

fn write(view: &View, manifest: &Manifest, output: &mut dyn Write) -> Result<u64, String> {
    let len = manifest.objects.iter().map(|object| object.size).sum();
    let json = serde_json::to_vec(manifest).map_err(text)?;
    if json.len() as u64 > MANIFEST_LEN_MAX {
        return Err("too many files for one tar: export fewer repos at a time".to_owned());
    }
    let bar = bar(len);
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, output));
    append(&mut tar, MANIFEST, json.len() as u64, &json[..])?;
    for object in &manifest.objects {
        let oid = Oid::parse(&object.oid).ok_or("no oid")?;
        let reader = view.object_reader(&oid).map_err(text)?;
        let reader = reader.filter(|reader| reader.size() == object.size);
        let reader = reader.ok_or_else(|| format!("object {oid} went away meanwhile: export again, or pin the repo first"))?;
        bar.set_message(object.oid.clone());
        append(&mut tar, &format!("{OBJECTS}{oid}"), object.size, Counted { reader, bar: &bar })?;
    }
    tar.into_inner().and_then(|mut output| output.flush()).map_err(told)?;
    bar.finish_and_clear();
    Ok(len)
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, len: u64, bytes: impl Read) -> Result<(), String> {
    let mut header = tar::Header::new_gnu();
    header.set_size(len);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, bytes).map_err(told)
}

fn told(error: io::Error) -> String {
    format!("write the tar: {error}")
}

/// Moves the bar with what is read.
struct Counted<'a> {
    reader: ObjectReader,
    bar: &'a ProgressBar,
}

impl Read for Counted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(bytes)?;
        self.bar.inc(len as u64);
        Ok(len)
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
