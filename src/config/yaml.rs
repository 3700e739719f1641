//! Walks a YAML text against the table of keys.

use super::{Config, Mistake};
use serde_yaml::{Mapping, Value};

/// A list with more elements than this is a slip.
const LIST_MAX: usize = 1000;

pub(super) fn read(text: &str) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut config = Config::default();
    match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Null) => {}
        Ok(Value::Mapping(sections)) => read_sections(&sections, &mut config, &mut mistakes),
        Ok(_) => mistakes.push(Mistake::new("", "", "the file holds no sections; it should begin as `server:` does", "")),
        Err(error) => mistakes.push(Mistake::new("", "", format!("the file is not YAML: {error}"), "")),
    }
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

fn read_sections(sections: &Mapping, config: &mut Config, mistakes: &mut Vec<Mistake>) {
    for (name, section) in sections {
        let name = shown(name);
        let prefix = format!("{name}.");
        if !Config::keys().iter().any(|key| key.name.starts_with(&prefix)) {
            mistakes.push(Mistake::unknown_key(&name, ""));
            continue;
        }
        match section {
            Value::Null => {}
            Value::Mapping(entries) => {
                for (word, value) in entries {
                    let key = format!("{name}.{}", shown(word));
                    if let Err(mistake) = read_entry(&key, value, config) {
                        mistakes.push(mistake);
                    }
                }
            }
            other => mistakes.push(Mistake::new(&name, &shown(other), "is a section and takes keys, not a value", "")),
        }
    }
}

fn read_entry(name: &str, value: &Value, config: &mut Config) -> Result<(), Mistake> {
    let Some(key) = Config::keys().iter().find(|key| key.name == name) else {
        return Err(Mistake::unknown_key(name, &shown(value)));
    };
    let wrong = |what: &str| Err(Mistake::new(name, key.shown(&shown(value)), what, key.example));
    match value {
        Value::Null => wrong("has no value; remove the line to get the default, or write \"\" for an empty one"),
        Value::Mapping(_) | Value::Tagged(_) => wrong("takes a plain value"),
        Value::Sequence(items) if items.len() > LIST_MAX => wrong("has more than 1000 elements"),
        Value::Sequence(items) => match items.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
            Some(items) => key.set_list(config, &items),
            None => wrong("holds an element that is no text"),
        },
        _ if key.is_list() => wrong("takes a list"),
        _ => key.set(config, &shown(value)),
    }
}

/// Returns a value on one line, as the user would recognise it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Sequence(items) => format!("[{}]", items.iter().take(5).map(shown).collect::<Vec<_>>().join(", ")),
        Value::Mapping(_) | Value::Tagged(_) => "..".to_owned(),
    }
}
