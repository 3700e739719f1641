//! The fuzz targets' entry points on the stable toolchain, for a moment each: the examples of `fuzz/seeds/`, mutations of them,
//! and plain noise. `make fuzz` looks longer, with coverage to guide it.
//!
//! `FUZZ_SEED` and `FUZZ_SECONDS` (per target) choose another run than the usual one.

#![allow(clippy::unwrap_used, reason = "a helper of tests as well")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

type Entry = fn(&[u8]);

/// Every target of `fuzz/Cargo.toml`.
const TARGETS: [(&str, Entry); 12] = [
    ("block_file", dingospeed::store::fuzz_block_file),
    ("record", dingospeed::store::fuzz_record),
    ("listing", dingospeed::store::fuzz_listing),
    ("file_name", dingospeed::store::fuzz_file_name),
    ("route", dingospeed::hub::fuzz_route),
    ("range", dingospeed::hub::fuzz_range),
    ("content_range", dingospeed::hub::fuzz_content_range),
    ("link", dingospeed::hub::fuzz_link),
    ("tree", dingospeed::hub::fuzz_tree),
    ("strip_xet", dingospeed::hub::fuzz_strip_xet),
    ("head", dingospeed::proxy::fuzz_head),
    ("client", dingospeed::limits::fuzz_client),
];

/// Pieces at which grammars turn.
const PIECES: [&[u8]; 40] = [
    b"/",
    b"..",
    b".",
    b"%2e",
    b"%2F",
    b"%00",
    b"%",
    b"\0",
    b"\\",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"-",
    b"=",
    b"*",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"<",
    b">",
    b"0",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"null",
    b"true",
    b"\\u0078",
    b"xetHash",
    b"bytes",
    b"W/",
    b"\xff",
    b"\xc3\xa9",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of a directory is no part of the seed.
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no example", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn noise(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..300)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Changes a few things: bits, pieces, halves, repetitions, numbers.
fn mutated(mut bytes: Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 40));
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..end, PIECES.choose(random).unwrap().iter().copied())),
            4 => drop(bytes.splice(at..at, PIECES.choose(random).unwrap().iter().copied())),
            5 => drop(bytes.splice(at..at, bytes[at..end].repeat(random.random_range(1..4)))),
            6 => {
                let other = others.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn no_target_breaks_a_promise() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let seed = number("FUZZ_SEED", 1);
    let seconds = number("FUZZ_SECONDS", 1);
    for (name, entry) in TARGETS {
        let mut random = StdRng::seed_from_u64(seed);
        let seeds = seeds(name);
        let try_one = |bytes: &[u8]| {
            if catch_unwind(AssertUnwindSafe(|| entry(bytes))).is_err() {
                panic!("{name} breaks (FUZZ_SEED={seed}) on\n{}\n{bytes:?}", bytes.escape_ascii());
            }
        };
        seeds.iter().for_each(|bytes| try_one(bytes));
        let began = Instant::now();
        let mut count = 0_u64;
        while began.elapsed() < Duration::from_secs(seconds) {
            let bytes = match random.random_range(0..10) {
                0 => noise(&mut random),
                _ => mutated(seeds.choose(&mut random).unwrap().clone(), &seeds, &mut random),
            };
            try_one(&bytes);
            count += 1;
        }
        assert!(count > 100, "{name}: only {count} tries in {seconds} s");
    }
}

#[test]
fn every_target_is_tried_here_and_under_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let mut named: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")).collect();
    named.sort_unstable();
    let mut known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(named, known);
    let mut sources: Vec<String> = std::fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    sources.sort_unstable();
    assert_eq!(sources, known.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>());
}
