//! The configuration of a command: the file, then `--set`, then the named flags; and the secrets that stand elsewhere.

use super::{line::Settings, mistakes::Mistakes};
use crate::config::Config;
use http::HeaderValue;
use std::{fs, io, path::Path};

impl Settings {
    pub(super) fn read(&self, mistakes: &mut Mistakes) -> Config {
        let mut config = self.config.as_ref().map_or_else(Config::default, |path| read_file(path, mistakes));
        for pair in &self.sets {
            match pair.split_once('=') {
                Some((key, value)) => set(&mut config, key.trim(), Some(value), mistakes),
                None => mistakes.push(format!("--set {pair}: write KEY=VALUE, for example --set server.threads=4")),
            }
        }
        set(&mut config, "store.repos", self.repos.as_deref(), mistakes);
        set(&mut config, "upstream.url", self.upstream.as_deref(), mistakes);
        let (upstream, admin) = (config.upstream.token_file.clone(), config.admin.token_file.clone());
        read_token(&mut config, "upstream.token", &upstream, mistakes);
        let before = mistakes.len();
        read_token(&mut config, "admin.token", &admin, mistakes);
        // A token that could not be read is not one that is missing.
        if mistakes.len() == before {
            mistakes.extend(config.admin.mistake());
        }
        config
    }
}

/// Returns the defaults when the file is wrong, so that the flags are still checked.
pub(super) fn read_file(path: &Path, mistakes: &mut Mistakes) -> Config {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("--config {shown}: {error}"));
            return Config::default();
        }
    };
    Config::from_yaml(&text).unwrap_or_else(|found| {
        mistakes.extend(found.iter().map(|mistake| format!("{shown}: {mistake}")));
        Config::default()
    })
}

/// Puts the content of a token's file where the rest of the program looks for it.
fn read_token(config: &mut Config, key: &str, path: &Path, mistakes: &mut Mistakes) {
    if path.as_os_str().is_empty() {
        return;
    }
    match fs::read_to_string(path) {
        // An empty token would be none at all, which is not what a file of it means.
        Ok(text) if text.trim().is_empty() => mistakes.push(format!("{key}_file = `{}`: the file is empty", path.display())),
        Ok(text) => set(config, key, Some(text.trim()), mistakes),
        // It was read, and is no text.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            mistakes.push(format!("{key}_file = `{}`: {error}", path.display()));
        }
        Err(error) => mistakes.push_unread(format!("{key}_file = `{}`: {error}", path.display())),
    }
}

pub(super) fn set(config: &mut Config, key: &str, value: Option<&str>, mistakes: &mut Mistakes) {
    if let Some(value) = value
        && let Err(mistake) = config.apply(key, value)
    {
        mistakes.push(mistake.to_string());
    }
}

pub(super) fn noted<T, E: ToString>(result: Result<T, E>, mistakes: &mut Mistakes) -> Option<T> {
    result.map_err(|error| mistakes.push(error.to_string())).ok()
}

/// Never says what the token is.
fn bearer(token: &str, mistakes: &mut Mistakes) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = noted(value.map_err(|_| "--token (or HF_TOKEN) holds characters that no token has"), mistakes)?;
    value.set_sensitive(true);
    Some(value)
}

pub(super) fn authorization(token: Option<String>, mistakes: &mut Mistakes) -> Option<HeaderValue> {
    token.filter(|token| !token.is_empty()).and_then(|token| bearer(&token, mistakes))
}
