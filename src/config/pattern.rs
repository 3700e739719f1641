//! Repos by kind and name, with wildcards: `models/org/*`.

use globset::{GlobBuilder, GlobMatcher};
use std::fmt;

/// The first words a pattern may have; any other could match nothing, and would be a mistake that nobody sees.
const KINDS: [&str; 4] = ["models", "datasets", "spaces", "kernels"];

/// A pattern of repos. Upper and lower case are one, as the Hub has it: or a rule could be walked around.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Reads `kind/owner/name` or `kind/name`, where `*` stands for any characters (slashes too) and `?` for one.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let kind = text.split('/').next().unwrap_or_default();
        if !kind.starts_with(['*', '?']) && !KINDS.contains(&kind) {
            return Err("does not begin with models/, datasets/, spaces/, kernels/ or a `*`".to_owned());
        }
        if !text.contains(['/', '*']) {
            return Err("names no repo; write models/* for all models".to_owned());
        }
        if text.split('/').count() > 3 || text.split('/').any(str::is_empty) {
            return Err("is not kind/owner/name".to_owned());
        }
        let glob = GlobBuilder::new(text).case_insensitive(true).literal_separator(false).build();
        let glob = glob.map_err(|error| format!("is no pattern: {}", error.kind()))?;
        Ok(Pattern { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    /// Whether only repos of one kind are meant.
    pub fn names_kind(&self) -> bool {
        self.text.split('/').next().is_some_and(|kind| KINDS.contains(&kind))
    }

    /// Whether `models/org/name` is meant.
    pub fn matches(&self, repo: &str) -> bool {
        self.matcher.is_match(repo)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_repos() {
        #[track_caller]
        fn check(pattern: &str, repo: &str, expected: bool) {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(repo), expected, "{pattern} {repo}");
        }
        check("models/org/name", "models/org/name", true);
        check("models/org/name", "models/Org/NAME", true);
        check("models/org/name", "models/org/name2", false);
        check("models/org/*", "models/org/a", true);
        check("models/org/*", "models/organ/a", false);
        check("models/org/*", "datasets/org/a", false);
        check("datasets/*", "datasets/a/b", true);
        check("*/secret-*", "models/org/secret-x", true);
        check("*", "spaces/a/b", true);
        check("models/gpt?", "models/gpt2", true);
        for wrong in
            ["org/name", "model/org/name", "models", "models/", "models/a/b/c", "models//x", "models/[", "models/a/[b", ""]
        {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
