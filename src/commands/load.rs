//! `dingospeed load`: takes in what `export` wrote. Every object is proven; what the manifest says of repos is believed, as far as
//! its every word is one.

use super::{
    bundle::{MANIFEST, MANIFEST_LEN_MAX, Manifest, OBJECTS, VERSION},
    counted, failed,
    intake::{Intake, check_room, has, text},
    ls::Format,
    progress::bar,
};
use crate::{
    admin::{AskError, Keeper},
    config::Config,
    hub::Oid,
    store::{Given, Step, View},
};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// What to load.
#[derive(Debug)]
pub struct Load {
    /// `-` stands for stdin.
    pub input: PathBuf,
    pub dry_run: bool,
    pub format: Format,
}

/// Loads. 0 once everything of the tar is here.
pub fn run(config: &Config, asked: &Load, find: impl FnOnce() -> Result<Keeper, AskError>) -> ExitCode {
    match load(config, asked, find) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn load(config: &Config, asked: &Load, find: impl FnOnce() -> Result<Keeper, AskError>) -> Result<(), String> {
    let began = Instant::now();
    let shown = asked.input.display();
    let input: Box<dyn Read> = match asked.input == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(&asked.input).map_err(|error| format!("{shown}: {error}"))?),
    };
    // Behind the colon there may be what stands in the file, which is nobody's business.
    let wrong = |error: io::Error| {
        let why = error.to_string();
        format!("{shown} cannot be read as a tar: {}", why.split(':').next().unwrap_or_default())
    };
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, input));
    // Raw: names too long for a header come as entries of their own, which are refused, instead of being read into memory.
    let mut entries = tar.entries().map_err(wrong)?.raw(true);

    let first = entries.next().ok_or_else(|| format!("{shown} is empty"))?.map_err(wrong)?;
    let manifest = read_manifest(first).map_err(|why| format!("{shown} is no export: {why}"))?;
    for parcel in &manifest.parcels {
        parcel.verify().map_err(|error| format!("{shown}: {error}"))?;
    }
    let repos: Vec<Value> =
        (manifest.parcels.iter()).map(|one| json!({ "id": one.repo, "commit": one.commit, "files": one.files.len() })).collect();
    let name_repos = || {
        manifest.parcels.iter().for_each(|parcel| match asked.format {
            Format::Table => println!("{}@{}: {}", parcel.repo, &parcel.commit[..7], counted(parcel.files.len() as u64, "file")),
            Format::Quiet => println!("{}@{}", parcel.repo, parcel.commit),
            Format::Json => {}
        });
    };
    let mut awaited = awaited(&manifest).map_err(|why| format!("{shown}: {why}"))?;
    let sizes = awaited.clone();
    let announced = awaited.len() as u64;
    if asked.dry_run {
        let len: u64 = awaited.values().sum();
        name_repos();
        match asked.format {
            Format::Table => println!("would load {}, {}", counted(announced, "object"), HumanBytes(len)),
            Format::Json => println!("{}", json!({ "would_load": { "objects": announced, "bytes": len }, "repos": repos })),
            Format::Quiet => {}
        }
        return Ok(());
    }

    let keeper = find().map_err(text)?;
    let view = View::open(&config.store.repos).map_err(text)?;
    view.clear_staged().map_err(text)?;
    awaited.retain(|oid, _| !has(&view, oid));
    let len: u64 = awaited.values().sum();
    check_room(&view, len, config.eviction.min_free, "make room, or export fewer repos")?;
    let intake = Intake { view: &view, keeper: &keeper, block_size: config.store.block_size };
    let bar = bar(len);
    let here = announced - awaited.len() as u64;
    for entry in entries {
        let mut entry = entry.map_err(wrong)?;
        let (oid, size) = object_of(&entry, &sizes)?;
        // Told twice, or here before.
        if awaited.remove(&oid).is_none() {
            continue;
        }
        bar.set_message(oid.to_string());
        let mut progress = |step| {
            if let Step::Copied(len) = step {
                bar.inc(len);
            }
        };
        let taken = intake.object(Given::Stream(&mut entry, size), &oid, &mut progress);
        taken.map_err(|why| format!("{shown}: objects/{oid}: {why}; nothing was learned of the repos"))?;
    }
    bar.finish_and_clear();
    if !awaited.is_empty() {
        return Err(format!(
            "{shown} ends early: {} did not come; load it again when it is whole",
            counted(awaited.len() as u64, "object")
        ));
    }
    for parcel in &manifest.parcels {
        intake.parcel(parcel).map_err(|why| format!("{}@{}: {why}", parcel.repo, parcel.commit))?;
    }
    name_repos();
    let (count, seconds) = (announced - here, began.elapsed().as_secs_f64());
    match asked.format {
        Format::Table => {
            let (count, here) = (counted(count, "object"), counted(here, "object"));
            println!("loaded {count}, {} in {seconds:.1} s; {here} here before", HumanBytes(len));
        }
        Format::Json => {
            let loaded = json!({ "objects": count, "bytes": len, "objects_here_before": here, "seconds": seconds });
            println!("{}", json!({ "loaded": loaded, "repos": repos }));
        }
        Format::Quiet => {}
    }
    Ok(())
}

fn read_manifest(entry: tar::Entry<'_, impl Read>) -> Result<Manifest, String> {
    let name = entry.path_bytes().into_owned();
    let len = entry.header().entry_size().map_err(text)?;
    if name != MANIFEST.as_bytes() || !entry.header().entry_type().is_file() {
        return Err(format!("it begins with `{}`, not with {MANIFEST}", String::from_utf8_lossy(&name)));
    }
    if len > MANIFEST_LEN_MAX {
        return Err(format!("its manifest has {len} bytes, more than {MANIFEST_LEN_MAX}"));
    }
    let mut json = Vec::new();
    entry.take(MANIFEST_LEN_MAX).read_to_end(&mut json).map_err(text)?;
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|error| format!("its manifest: {error}"))?;
    match manifest.dingospeed_export {
        version if version > VERSION => Err(format!("it is of version {version}, this program knows {VERSION}: use a newer one")),
        _ => Ok(manifest),
    }
}

/// Returns the objects that the manifest announces, of one size wherever it speaks of them.
fn awaited(manifest: &Manifest) -> Result<HashMap<Oid, u64>, String> {
    let mut awaited = HashMap::new();
    for object in &manifest.objects {
        let oid = Oid::parse(&object.oid).ok_or_else(|| format!("the manifest names an object `{}`", object.oid))?;
        awaited.insert(oid, object.size);
    }
    for file in manifest.parcels.iter().flat_map(|parcel| &parcel.files) {
        if let Some(size) = Oid::parse(&file.oid).and_then(|oid| awaited.get(&oid)).filter(|size| **size != file.size) {
            return Err(format!(
                "the manifest says that `{}` has {} bytes, and its object {} {size}: it was changed; export again",
                file.path, file.size, file.oid
            ));
        }
    }
    let total = awaited.values().try_fold(0u64, |sum, size| sum.checked_add(*size));
    total.map(|_| awaited).ok_or_else(|| "the manifest announces more bytes than can be counted".to_owned())
}

/// Returns which object an entry is, and of how many bytes, if it is one that was announced.
fn object_of(entry: &tar::Entry<'_, impl Read>, sizes: &HashMap<Oid, u64>) -> Result<(Oid, u64), String> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let refused = |why: &str| format!("the tar holds `{}`, {why}: refused", name.escape_debug());
    if !entry.header().entry_type().is_file() {
        return Err(refused("which is no plain file"));
    }
    let oid = name.strip_prefix(OBJECTS).filter(|hex| Oid::parse(hex).is_some_and(|oid| oid.as_str() == *hex));
    let oid = oid.and_then(Oid::parse).ok_or_else(|| refused("which is no object"))?;
    let size = *sizes.get(&oid).ok_or_else(|| refused("which its manifest does not name"))?;
    match entry.header().entry_size().map_err(text)? == size {
        true => Ok((oid, size)),
        false => Err(refused("of another size than its manifest says")),
    }
}
