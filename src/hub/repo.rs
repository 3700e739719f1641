//! A repository: its kind and its name.

use super::escape::BadTarget;
use std::fmt;
use std::sync::Arc;

const SEGMENT_MAX: usize = 96;

/// The four kinds of repository of the Hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepoKind {
    Model,
    Dataset,
    Space,
    Kernel,
}

impl RepoKind {
    /// Every kind, models first.
    pub const ALL: [RepoKind; 4] = [RepoKind::Model, RepoKind::Dataset, RepoKind::Space, RepoKind::Kernel];

    /// Returns the kind's name: `model`.
    pub fn as_str(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "dataset",
            RepoKind::Space => "space",
            RepoKind::Kernel => "kernel",
        }
    }

    /// Returns the plural, which is the word of API paths and of directories: `models`.
    pub fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
            RepoKind::Space => "spaces",
            RepoKind::Kernel => "kernels",
        }
    }

    /// Returns what stands before the name in file URLs: nothing for a model, else the plural and a slash.
    pub fn url_prefix(self) -> &'static str {
        match self {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
            RepoKind::Space => "spaces/",
            RepoKind::Kernel => "kernels/",
        }
    }

    /// Returns the kind whose name or plural is `word`.
    pub fn parse(word: &str) -> Option<RepoKind> {
        RepoKind::ALL.into_iter().find(|kind| word == kind.as_str() || word == kind.plural())
    }

    /// Returns the kind whose plural is `word`, as API paths need it.
    pub fn from_plural(word: &str) -> Option<RepoKind> {
        RepoKind::ALL.into_iter().find(|kind| word == kind.plural())
    }
}

impl fmt::Display for RepoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A repository: `org/name`, or one of the old names without an owner (`gpt2`). Safe as a directory path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId {
    kind: RepoKind,
    /// Shared: a request hands its repo from room to room.
    name: Arc<str>,
}

impl RepoId {
    /// Returns the repository, or says why `name` cannot be one.
    pub fn parse(kind: RepoKind, name: &str) -> Result<RepoId, BadTarget> {
        let mut segment_count = 0;
        for segment in name.split('/') {
            segment_count += 1;
            if let Some(wrong) = segment_mistake(segment) {
                return Err(BadTarget::about("repo name", name, wrong));
            }
        }
        if segment_count > 2 {
            return Err(BadTarget::about("repo name", name, "has more than two segments; it should be `owner/name`"));
        }
        if name.ends_with(".git") {
            return Err(BadTarget::about("repo name", name, "ends with .git"));
        }
        Ok(RepoId { kind, name: name.into() })
    }

    /// Returns the kind.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Returns `org/name`, or the one segment of an old name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the repo in lower case: two spellings of one repo of the Hub are equal then.
    pub fn folded(&self) -> RepoId {
        match self.name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => RepoId { kind: self.kind, name: self.name.to_ascii_lowercase().into() },
            false => self.clone(),
        }
    }

    /// Returns the path of the API resource: `/api/datasets/org/name`.
    pub fn api_path(&self) -> String {
        format!("/api/{}/{}", self.kind.plural(), self.name)
    }

    /// Returns the path of the repo's page, under which its files are: `/datasets/org/name`.
    pub fn url_path(&self) -> String {
        format!("/{}{}", self.kind.url_prefix(), self.name)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.name)
    }
}

/// The Hub's rules, held loosely (old repos break the newer ones) but tightly enough for a directory name.
fn segment_mistake(segment: &str) -> Option<&'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if segment.is_empty() {
        Some("has an empty segment")
    } else if segment == "-" {
        // Below that path is the mirror's own page; the Hub gives no such name.
        Some("has a segment that is a dash alone")
    } else if segment.len() > SEGMENT_MAX {
        Some("has a segment of more than 96 characters")
    } else if !segment.bytes().all(legal) {
        Some("holds a character other than letters, digits, `.`, `_` and `-`")
    } else if segment.starts_with('.') {
        Some("has a segment that begins with a dot")
    } else if segment.contains("..") {
        Some("holds `..`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_a_directory() {
        fn check(name: &str, legal: bool) {
            assert_eq!(RepoId::parse(RepoKind::Model, name).is_ok(), legal, "{name:?}");
        }
        check("gpt2", true);
        check("openai-community/gpt2", true);
        check("org/Qwen2.5_7B-Instruct", true);
        check("org/-odd-", true);
        check("-", false);
        check("org/-", false);
        check("", false);
        check("/gpt2", false);
        check("org/", false);
        check("a/b/c", false);
        check("..", false);
        check("org/..", false);
        check("org/.hidden", false);
        check("org/a..b", false);
        check("org/na me", false);
        check("org/na\\me", false);
        check("org/\u{e9}", false);
        check("org/name.git", false);
        check(&"x".repeat(96), true);
        check(&"x".repeat(97), false);
    }

    #[test]
    fn paths_follow_the_kind() {
        let model = RepoId::parse(RepoKind::Model, "o/m").unwrap();
        let dataset = RepoId::parse(RepoKind::Dataset, "squad").unwrap();
        assert_eq!((model.api_path(), model.url_path()), ("/api/models/o/m".into(), "/o/m".into()));
        assert_eq!((dataset.api_path(), dataset.url_path()), ("/api/datasets/squad".into(), "/datasets/squad".into()));
        assert_eq!(dataset.to_string(), "datasets/squad");
    }
}
