//! `dingospeed check`: what is wrong with the configuration. Reading it has found that out; here it is said.

use super::ls::Format;
use crate::journal;
use log::Level;
use serde_json::json;

/// Prints the outcome to stdout, where it is a table or JSON; a table's mistakes go to stderr, as they do when another command meets
/// them. Returns whether there are none.
pub fn run(mistakes: &[String], format: Format) -> bool {
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
