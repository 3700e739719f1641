//! What is kept, read from the directory: repos, their commits, their files, and how much of each is there.

use crate::{
    hub::{Commit, Oid, RepoId},
    store::{Peek, Pin, StoreError, View},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::SystemTime,
};

/// A repo of which something is kept.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) id: RepoId,
    /// All of it is pinned: as such, or each revision that is kept.
    pub(crate) pinned: bool,
    /// What was pinned of it, also revisions that are not kept.
    pub(crate) pins: Vec<Pin>,
    pub(crate) sum: Sum,
    pub(crate) commits: Vec<Snapshot>,
}

/// One commit of a repo.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) commit: Commit,
    /// Branches and tags that pointed here when last asked.
    pub(crate) refs: Vec<String>,
    pub(crate) pinned: bool,
    pub(crate) sum: Sum,
    /// Those of which something is kept.
    pub(crate) files: Vec<File>,
}

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) oid: Oid,
    pub(crate) sum: Sum,
}

/// How much of some files is kept. Objects that several of them share count once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    /// Bytes on the disk.
    pub(crate) allocated_len: u64,
    /// Bytes of the files' own lengths, and those that are there.
    pub(crate) size: u64,
    pub(crate) present_len: u64,
    pub(crate) file_count: u64,
    /// Every file that the Hub has is known and there, and was verified.
    pub(crate) complete: bool,
    pub(crate) read: Option<SystemTime>,
}

impl Sum {
    /// Returns how much is there in percent; 100 only when all is (rounds down).
    pub(crate) fn percent(&self) -> u64 {
        match self.size {
            0 => 100,
            size => (u128::from(self.present_len) * 100 / u128::from(size)) as u64,
        }
    }
}

/// Reads objects' files, each once.
pub(crate) struct Peeks<'a> {
    view: &'a View,
    known: HashMap<Oid, Option<Peek>>,
}

impl<'a> Peeks<'a> {
    pub(crate) fn new(view: &'a View) -> Peeks<'a> {
        Peeks { view, known: HashMap::new() }
    }

    fn get(&mut self, oid: &Oid) -> Result<Option<Peek>, StoreError> {
        if let Some(known) = self.known.get(oid) {
            return Ok(*known);
        }
        let peek = self.view.peek(oid)?;
        self.known.insert(*oid, peek);
        Ok(peek)
    }

    /// Returns how many objects are remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the objects that were looked at and are there, with the bytes they take.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&Oid, u64)> {
        self.known.iter().filter_map(|(oid, peek)| Some((oid, peek.as_ref()?.allocated_len)))
    }
}

/// Adds up files, each object once.
#[derive(Default)]
struct Tally {
    sum: Sum,
    seen: HashSet<Oid>,
    lacks: bool,
}

impl Tally {
    /// `size` is what the listing says; a file that was never asked for has no object.
    fn add(&mut self, oid: &Oid, size: u64, peek: Option<&Peek>) {
        self.lacks |= !peek.is_some_and(|peek| peek.present_len == peek.size && peek.verified);
        self.sum.file_count += u64::from(peek.is_some());
        if !self.seen.insert(*oid) {
            return;
        }
        self.sum.size += size;
        if let Some(peek) = peek {
            self.sum.present_len += peek.present_len.min(size);
            self.sum.allocated_len += peek.allocated_len;
            self.sum.read = self.sum.read.max(Some(peek.read));
        }
    }

    fn end(mut self, all_known: bool) -> Sum {
        self.sum.complete = all_known && !self.lacks;
        self.sum
    }
}

/// Reads one repo.
pub(crate) fn repo(view: &View, id: &RepoId, pins: &[Pin], peeks: &mut Peeks<'_>) -> Result<Repo, StoreError> {
    let refs = view.refs(id)?;
    let pins: Vec<Pin> = pins.iter().filter(|pin| pin.repo == *id).cloned().collect();
    let held = pins.iter().map(|pin| view.held(pin)).collect::<Result<Vec<_>, _>>()?.concat();
    let mut commits = Vec::new();
    let mut whole = Tally::default();
    let mut all_known = true;
    for commit in view.commits(id)? {
        let listing = view.listing(id, &commit)?;
        let mut paths: BTreeMap<String, (Oid, Option<u64>)> = BTreeMap::new();
        view.each_link(id, &commit, |path, oid| {
            paths.insert(path, (oid, None));
        })?;
        // A listing that is not complete names only what was asked for, as the links do.
        for (path, file) in &listing.files {
            paths.insert(path.to_string(), (file.oid, Some(file.size)));
        }
        let mut tally = Tally::default();
        let mut files = Vec::new();
        for (path, (oid, listed_size)) in paths {
            let peek = peeks.get(&oid)?;
            let size = listed_size.or(peek.map(|peek| peek.size)).unwrap_or_default();
            tally.add(&oid, size, peek.as_ref());
            whole.add(&oid, size, peek.as_ref());
            if peek.is_some() {
                let mut one = Tally::default();
                one.add(&oid, size, peek.as_ref());
                files.push(File { path, oid, sum: one.end(true) });
            }
        }
        let is_whole = listing.complete && !listing.left_out;
        all_known &= is_whole;
        let refs = refs.iter().filter(|(_, at)| *at == commit).map(|(name, _)| name.clone()).collect();
        let pinned = held.contains(&commit);
        commits.push(Snapshot { commit, refs, pinned, sum: tally.end(is_whole), files });
    }
    let pinned = !pins.is_empty() && commits.iter().all(|snapshot| snapshot.pinned);
    Ok(Repo { id: id.clone(), pinned, pins, sum: whole.end(all_known), commits })
}
