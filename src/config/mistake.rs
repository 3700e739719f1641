//! A mistake in the configuration, told so that it can be mended without looking anything up.

use super::Config;
use std::fmt;

/// One mistake: where it is, what stands there, what is wrong, and what could stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The full key, such as `server.listen`; empty when the text as a whole is wrong.
    pub key: String,
    /// The value as written.
    pub value: String,
    pub wrong: String,
    /// A legal value, or for an unknown key the key that was perhaps meant; empty if there is none.
    pub example: String,
}

impl Mistake {
    pub(super) fn new(key: &str, value: &str, wrong: impl Into<String>, example: &str) -> Mistake {
        Mistake { key: key.to_owned(), value: value.to_owned(), wrong: wrong.into(), example: example.to_owned() }
    }

    /// The key is in no table; the nearest known one is suggested.
    pub(super) fn unknown_key(key: &str, value: &str) -> Mistake {
        match nearest_key(key) {
            Some(near) => Mistake::new(key, value, format!("there is no such key, did you mean `{near}`?"), ""),
            None => Mistake::new(key, value, "there is no such key", ""),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = `{}`", self.value)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.wrong)?;
        if !self.example.is_empty() {
            write!(f, "; for example `{}: {}`", self.key.rsplit('.').next().unwrap_or(&self.key), self.example)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistake {}

/// Returns the known key, or section, that differs least: the same last word in another section, or a few letters.
fn nearest_key(key: &str) -> Option<&'static str> {
    let last_word = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let names = || Config::keys().iter().map(|known| known.name);
    let sections = names().filter_map(|name| name.split_once('.').map(|(section, _)| section));
    // A long name may hold more slips than a short one.
    let distance_max = (key.len() / 4).clamp(1, 4);
    let candidates = if key.contains('.') { names().collect::<Vec<_>>() } else { sections.chain(names()).collect() };
    let slip = candidates
        .into_iter()
        .map(|name| (distance(key, name), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    slip.or_else(|| names().find(|name| last_word(name) == last_word(key)))
}

/// The number of letters to add, drop, change or swap to get from one name to the other (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().take(64).collect(), right.chars().take(64).collect());
    let mut table = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(left[i - 1] != right[j - 1]);
                let mut best = (table[i - 1][j] + 1).min(table[i][j - 1] + 1).min(table[i - 1][j - 1] + change);
                if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                    best = best.min(table[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    table[left.len()][right.len()]
}
