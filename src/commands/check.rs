//! `dingospeed check`: what is wrong with the configuration and the files it names. Reading them has found that out; here it is said.

use super::ls::Format;
use crate::journal;
use log::Level;
use serde_json::json;

/// Prints the outcome to stdout, where it is a table or JSON; a table's mistakes go to stderr, as they do when another command meets
/// them, and so does a warning. Returns whether there are no mistakes.
pub fn run(mistakes: &[String], warning: Option<&str>, format: Format) -> bool {
    if let Some(warning) = warning {
        journal::say(Level::Warn, &format!("dingospeed: {warning}"));
    }
    let is_sound = mistakes.is_empty();
    match format {
        Format::Json => println!("{}", json!({ "ok": is_sound, "mistakes": mistakes })),
        Format::Table if is_sound => println!("ok"),
        Format::Table | Format::Quiet => say(mistakes),
    }
    is_sound
}

/// Says on stderr what is wrong, a line for each mistake.
pub fn say(mistakes: &[String]) {
    mistakes.iter().for_each(|mistake| journal::say(Level::Error, &format!("dingospeed: {mistake}")));
}
