//! What a pull shows while it runs: a bar on a terminal, a line per file elsewhere. All on stderr.

use crate::hub::FilePath;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

const TEMPLATE: &str = "{bar:24} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {wide_msg}";
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// A bar of so many bytes, on a terminal; elsewhere nothing.
pub(super) fn bar(total_len: u64) -> ProgressBar {
    let is_terminal = stderr().is_terminal();
    let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total_len), target);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    if is_terminal {
        // Without it the bar would stand still, speed and all, whenever upstream or the disk does.
        bar.enable_steady_tick(DRAW_EVERY);
    }
    bar
}

/// The progress of all files together.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(total_len: u64) -> Progress {
        let bar = bar(total_len);
        Progress { is_terminal: !bar.is_hidden(), bar }
    }

    pub(super) fn began(&self, path: &FilePath) {
        self.bar.set_message(path.to_string());
    }

    pub(super) fn advanced(&self, len: u64) {
        self.bar.inc(len);
    }

    /// Takes back what has to come again.
    pub(super) fn lost(&self, len: u64) {
        self.bar.dec(len);
    }

    pub(super) fn retries(&self, path: &FilePath, why: &str, after: Duration) {
        self.say(&format!("{path}: {why}; again in {:.1} s", after.as_secs_f64()));
    }

    pub(super) fn ended(&self, path: &FilePath, size: u64) {
        if !self.is_terminal {
            self.say(&format!("{path} {}", HumanBytes(size)));
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, line: &str) {
        // Above the bar where there is one; a hidden bar would swallow it.
        if self.is_terminal { self.bar.println(line) } else { eprintln!("{line}") }
    }
}
