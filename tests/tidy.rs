//! The rooms of `src/` and who may call whom: calls go down the list, nothing else crosses.

#![allow(clippy::unwrap_used, reason = "a test about files that must be there")]

use std::path::Path;

/// Each room and what it may name. `metrics` and `config` are words of layer 0, open to all.
const ROOMS: [(&str, &[&str]); 11] = [
    ("hub", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("store", &["hub"]),
    ("source", &["hub", "config", "metrics"]),
    ("mirror", &["hub", "config", "metrics", "store", "source", "access"]),
    ("access", &["hub", "config", "metrics", "store", "source", "mirror"]),
    ("admin", &["hub", "metrics", "store"]),
    ("limits", &["config", "metrics"]),
    // The page does what the commands do, and with the same code.
    ("panel", &["hub", "config", "metrics", "store", "mirror", "limits", "admin", "commands"]),
    ("proxy", &["hub", "config", "metrics", "source", "mirror", "access", "limits", "panel"]),
];

fn sources(path: &Path, found: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        found.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
}

fn room(name: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in [src.join(name), src.join(format!("{name}.rs"))] {
        if path.exists() {
            sources(&path, &mut found);
        }
    }
    assert!(!found.is_empty(), "no room `{name}`");
    found
}

/// The rooms that a text names: `crate::room::` and `crate::{room, ..}`.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                names.push(name);
            }
        }
    }
    if let Some((_, group)) = text.split_once("use crate::{") {
        let group = group.split("};").next().unwrap_or("");
        let mut depth = 0;
        for piece in group.split_inclusive([',', '{', '}']) {
            if depth == 0 {
                names.push(
                    piece.chars().filter(|c| !c.is_whitespace()).take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
                );
            }
            depth += i32::from(piece.ends_with('{')) - i32::from(piece.ends_with('}'));
        }
    }
    names
}

#[test]
fn calls_go_down() {
    let rooms: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).chain(["server", "commands", "cli"]).collect();
    for (name, may) in ROOMS {
        for (file, text) in room(name) {
            for other in named(&text) {
                let is_room = rooms.contains(&other.as_str());
                assert!(!is_room || other == name || may.contains(&other.as_str()), "{file}: `{name}` must not name `{other}`");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    for (file, text) in found {
        assert!(text.starts_with("//!"), "{file} does not open with `//!`");
    }
}

#[test]
fn pingora_proxy_and_cache_are_named_at_the_desk_only() {
    for (name, _) in ROOMS.iter().filter(|(name, _)| *name != "proxy") {
        for (file, text) in room(name) {
            assert!(!text.contains("pingora_proxy") && !text.contains("pingora_cache"), "{file} names pingora's proxy or cache");
        }
    }
}
