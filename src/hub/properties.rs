//! What holds for any input: nothing panics, nothing escapes its directory, what is written is read back the same.

use super::*;
use http::Method;
use proptest::prelude::*;
use std::path::{Component, Path};

/// Text that is likely to hit the grammar's edges.
fn edgy() -> impl Strategy<Value = String> {
    let atoms = vec![
        "/",
        "//",
        "..",
        ".",
        "%2F",
        "%2f",
        "%2e%2E",
        "%00",
        "%25",
        "%",
        "resolve",
        "raw",
        "tree",
        "refs",
        "pr",
        "1",
        "convert",
        "main",
        "api",
        "models",
        "datasets",
        "revision",
        "resolve-cache",
        "paths-info",
        "org",
        "gpt2",
        "a b",
        "+",
        "\\",
        "?",
        "&",
        "=",
        "True",
        "[]",
        "#",
        "\u{e9}",
        "bytes=",
        "-",
        ",",
        "0",
        "18446744073709551616",
        "<",
        ">",
        ";",
        "\"",
        "rel=",
        "xet-auth",
        "W/",
        "*",
        ".git",
        "http://",
        "huggingface.co",
        "info",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "{",
        "}",
        "[",
        "]",
        ":",
        "xetHash",
        "\\u0078",
    ];
    prop::collection::vec(prop::sample::select(atoms), 0..14).prop_map(|atoms| atoms.concat())
}

/// Words of one small vocabulary: what a broad one hits too rarely.
fn from_words(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(words), 0..10).prop_map(|words| words.concat())
}

fn pathy() -> impl Strategy<Value = String> {
    from_words(&["/", "/", "..", ".", "a", "\0", "\\", "b.c"])
}

fn rangy() -> impl Strategy<Value = String> {
    from_words(&["0", "1", "5", "9", "-", "-", ",", ",", " ", "99999999999999999999"]).prop_map(|list| format!("bytes={list}"))
}

fn refsy() -> impl Strategy<Value = String> {
    let rest = from_words(&["/", "/", "%2F", "%2F", "refs", "pr", "convert", "1", "a", "tree", "main", "resolve"]);
    let front = prop::sample::select(vec!["/o/m/resolve/refs", "/o/m/raw/", "/api/models/o/m/tree/refs", "/api/models/", "/"]);
    (front, rest).prop_map(|(front, rest)| format!("{front}{rest}"))
}

/// A target that gets past the first gates.
fn likely_target() -> impl Strategy<Value = String> {
    let front = prop::sample::select(vec![
        "/o/m/resolve/",
        "/datasets/d/raw/",
        "/api/models/o/m/",
        "/api/spaces/s/tree/",
        "/api/models/o/",
    ]);
    (front, edgy()).prop_map(|(front, rest)| format!("{front}{rest}"))
}

/// Any legal path or revision: segments of anything but control characters and slashes.
fn legal_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[^/\\p{Cc}]{1,12}", 1..5)
        .prop_map(|segments| segments.join("/"))
        .prop_filter("dots alone are no name", |path| FilePath::parse(path).is_ok())
}

/// Says whether `inner` joined under a root stays there, by the rules of the file system.
fn stays_inside(inner: &str) -> bool {
    let whole = Path::new("/root/repos").join(inner);
    let below = whole.strip_prefix("/root/repos").expect("joined under it");
    !inner.contains('\0') && below.components().all(|part| matches!(part, Component::Normal(_))) && below.components().count() > 0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_route(&bytes);
        fuzz_range(&bytes);
        fuzz_link(&bytes);
        fuzz_tree(&bytes);
        fuzz_content_range(&bytes);
        fuzz_strip_xet(&bytes);
    }

    #[test]
    fn no_edgy_text_makes_a_parser_panic(texts in (edgy(), likely_target(), pathy(), rangy(), refsy())) {
        for text in [texts.0, texts.1, texts.2, texts.3, texts.4] {
            fuzz_route(text.as_bytes());
            fuzz_range(text.as_bytes());
            fuzz_link(text.as_bytes());
            fuzz_tree(text.as_bytes());
            fuzz_content_range(text.as_bytes());
            fuzz_strip_xet(text.as_bytes());
        }
    }

    #[test]
    fn what_parsed_never_leaves_its_directory(text in prop_oneof![edgy(), pathy(), any::<String>(), legal_path()]) {
        for kind in RepoKind::ALL {
            if let Ok(repo) = RepoId::parse(kind, &text) {
                prop_assert!(stays_inside(repo.name()) && stays_inside(&repo.to_string()));
            }
        }
        if let Ok(revision) = Revision::parse(&text) {
            prop_assert!(stays_inside(revision.as_str()));
        }
        if let Ok(path) = FilePath::parse(&text) {
            prop_assert!(stays_inside(path.as_str()));
        }
        if let Some(oid) = Oid::parse(&text) {
            prop_assert!(stays_inside(oid.as_str()));
        }
    }

    #[test]
    fn a_file_written_down_is_read_back(revision in legal_path(), path in legal_path()) {
        let repo = RepoId::parse(RepoKind::Dataset, "o/d").expect("a legal name");
        let (Ok(revision), Ok(path)) = (Revision::parse(&revision), FilePath::parse(&path)) else { return Ok(()) };
        let resolve = Route::Resolve { repo: repo.clone(), revision: revision.clone(), path: path.clone() };
        let tree = Route::Tree { repo, revision, path: Some(path) };
        for route in [resolve, tree] {
            let target = ApiTarget::new(&route, "").upstream_path_and_query();
            prop_assert_eq!(Route::parse(&Method::GET, &target), Ok(route), "{}", target);
        }
    }

    #[test]
    fn a_range_agrees_with_a_slice(first in 0_u64..20, last in 0_u64..20, size in 0_u64..20) {
        let bytes: Vec<u64> = (0..size).collect();
        let wanted: Vec<u64> = bytes.iter().copied().filter(|at| (first..=last).contains(at)).collect();
        let got = match parse_range(Some(&format!("bytes={first}-{last}")), size) {
            RangeAsk::One(range) => range.collect(),
            RangeAsk::Unsatisfiable | RangeAsk::AllOfNothing => Vec::new(),
            RangeAsk::Whole => {
                prop_assert!(last < first);
                return Ok(());
            }
            RangeAsk::Many(_) => return Err(TestCaseError::fail("one range became many")),
        };
        prop_assert_eq!(got, wanted);
    }
}
