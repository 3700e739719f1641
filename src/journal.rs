//! How lines of the log are written: as text, or each as a JSON object.
//!
//! Lines are made as text in one manner everywhere, a few words and then `key=value` with values quoted where they are not plain. So the
//! fields of an object are read off the text, and no line needs two forms.
//!
//! Where stderr leads into systemd's journal, a line begins with its level as sd-daemon(3) has it (`<4>`), so that `journalctl -p`
//! finds it, and a text has no time, which the journal knows.

use crate::config::LogFormat;
use crate::hub::rewrite::split_unquoted;
use log::{Level, LevelFilter};
use serde_json::{Map, Value};
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::{fd::AsFd, unix::fs::MetadataExt};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Modules of pingora that call it an error when a client leaves or a kept connection was closed; our own line says both.
const ALARMISTS: [&str; 2] = ["pingora_proxy", "pingora_core::connectors"];
/// Keys that every line has; a field of the same name gets an underscore.
const OWN_KEYS: [&str; 3] = ["time", "level", "message"];

static JSON: AtomicBool = AtomicBool::new(false);
/// Whether stderr is what systemd has named as the way into its journal, and no file or pipe that it was turned into since.
static INTO_JOURNAL: LazyLock<bool> = LazyLock::new(|| {
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    let named = env::var("JOURNAL_STREAM");
    stderr.is_ok_and(|stderr| named.is_ok_and(|named| named == format!("{}:{}", stderr.dev(), stderr.ino())))
});

/// Logs to stderr: our own lines from `level` on, those of the libraries from `warn` on, for they say much at `info`.
pub fn start(level: &str, format: LogFormat) {
    let level = level.parse().unwrap_or(LevelFilter::Info);
    let mut logger = env_logger::Builder::new();
    if level < LevelFilter::Debug {
        ALARMISTS.iter().for_each(|module| {
            logger.filter_module(module, LevelFilter::Off);
        });
    }
    logger.filter_level(level.min(LevelFilter::Warn)).filter_module("dingospeed", level);
    match format {
        LogFormat::Text if *INTO_JOURNAL => {
            logger.format(|out, record| writeln!(out, "{}{:5} {}", mark(record.level()), record.level(), record.args()))
        }
        LogFormat::Text => logger.format_timestamp_millis().format_target(false),
        LogFormat::Json => {
            JSON.store(true, Ordering::Relaxed);
            logger.format(|out, record| {
                writeln!(out, "{}{}", mark(record.level()), object(record.level(), &record.args().to_string()))
            })
        }
    };
    logger.init();
}

/// Says on stderr what people and scripts wait for, whatever `log.level` is; as an object where the log holds objects.
pub fn say(level: Level, text: &str) {
    let mark = mark(level);
    match JSON.load(Ordering::Relaxed) {
        true => eprintln!("{mark}{}", line(level, text.to_owned(), Map::new())),
        false => eprintln!("{mark}{text}"),
    }
}

/// What stands in front of a line of this level.
fn mark(level: Level) -> &'static str {
    if !*INTO_JOURNAL {
        return "";
    }
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Makes an object of a line: what stands in front of the fields and after them is the message.
fn object(level: Level, text: &str) -> String {
    let mut message = String::new();
    let mut fields = Map::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = split_unquoted(rest, ' ');
        match field(word) {
            Some((key, value)) => {
                let key = if OWN_KEYS.contains(&key) { format!("{key}_") } else { key.to_owned() };
                fields.entry(key).or_insert(value);
            }
            None => {
                if !message.is_empty() {
                    message.push(' ');
                }
                message.push_str(word);
            }
        }
        rest = after;
    }
    line(level, message, fields)
}

fn line(level: Level, message: String, fields: Map<String, Value>) -> String {
    let mut line = Map::new();
    line.insert("time".to_owned(), now().into());
    line.insert("level".to_owned(), level.as_str().to_lowercase().into());
    line.insert("message".to_owned(), message.into());
    line.extend(fields);
    Value::Object(line).to_string()
}

/// Reads `key=value`; `None` where it is another word, or the value has no end.
fn field(word: &str) -> Option<(&str, Value)> {
    let (key, value) = word.split_once('=')?;
    let is_key = key.starts_with(|letter: char| letter.is_ascii_lowercase())
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_key {
        return None;
    }
    let value = value.trim_end_matches([',', ';', ':']);
    if let Some(quoted) = value.strip_prefix('"') {
        return Some((key, unquoted(quoted.strip_suffix('"')?).into()));
    }
    // Content ids are digits too, but never so few.
    let number = value.parse::<u64>().ok().map(Value::from);
    Some((key, number.unwrap_or_else(|| value.into())))
}

/// Undoes what `{:?}` does to a text.
fn unquoted(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('0') => plain.push('\0'),
            Some('u') => {
                let digits: String = letters.by_ref().skip(1).take_while(|letter| *letter != '}').collect();
                plain.extend(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32));
            }
            other => plain.extend(other),
        }
    }
    plain
}

/// Returns the time as RFC 3339 has it, in UTC, to the millisecond.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Value) {
        let mut found: Value = serde_json::from_str(&object(Level::Info, text)).unwrap();
        let found = found.as_object_mut().unwrap();
        let time = found.remove("time").unwrap();
        assert_eq!(time.as_str().map(str::len), Some("2026-11-23T16:06:33.123Z".len()), "{time}");
        assert_eq!(found.remove("level"), Some("info".into()));
        assert_eq!(Value::Object(found.clone()), expected, "{text}");
    }

    #[test]
    fn fields_are_read_off_the_line() {
        check(
            r#"served client=10.0.0.7 method=GET path="/a b/\"c\"\u{1}" route=resolve status=206 sent=9 from=object ms=3"#,
            json!({"message": "served", "client": "10.0.0.7", "method": "GET", "path": "/a b/\"c\"\u{1}", "route": "resolve",
                   "status": 206, "sent": 9, "from": "object", "ms": 3}),
        );
        check(
            r#"down upstream=hub cause="no route; level=9"; what is kept is served"#,
            json!({"message": "down what is kept is served", "upstream": "hub", "cause": "no route; level=9"}),
        );
        check("plain words", json!({"message": "plain words"}));
        check("level=9 time=1 A=b x= =y", json!({"message": "A=b =y", "level_": 9, "time_": 1, "x": ""}));
    }

    #[test]
    fn no_line_breaks_the_object() {
        for text in ["", " ", "\"", "a=\"", "a=\"\\", "a=\"\\u{zz}\"", "a=b\nlevel=error", "\u{7f}\u{0}=1", "a=\"b\"c\""] {
            let line = object(Level::Warn, text);
            assert!(!line.contains('\n'), "{line}");
            let found: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(found["level"], "warn", "{text:?}");
        }
    }
}
