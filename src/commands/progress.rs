//! Who is told how a pull goes; of a command that is stderr: a bar on a terminal, a line per file elsewhere.

use crate::hub::FilePath;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    sync::OnceLock,
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

/// Is told how a pull goes, from several tasks.
pub(crate) trait Watch: Send + Sync {
    /// So many files, of so many bytes together, are going to be read. Told once, first.
    fn listed(&self, file_count: usize, len: u64);

    fn began(&self, _path: &FilePath) {}

    fn advanced(&self, len: u64);

    /// Takes back what has to come again.
    fn lost(&self, len: u64);

    fn retries(&self, path: &FilePath, why: &str, after: Duration);

    fn ended(&self, path: &FilePath, size: u64);
}

/// The progress of all files together, on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    /// None before the files are listed.
    bar: OnceLock<ProgressBar>,
    names_files: bool,
}

impl Progress {
    /// `names_files` where there is no terminal for a bar.
    pub(super) fn new(names_files: bool) -> Progress {
        Progress { bar: OnceLock::new(), names_files }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }

    /// The bar, where people can see it.
    fn shown(&self) -> Option<&ProgressBar> {
        self.bar.get().filter(|bar| !bar.is_hidden())
    }

    fn say(&self, line: &str) {
        // Above the bar where there is one; a hidden bar would swallow it.
        match self.shown() {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Watch for Progress {
    fn listed(&self, _file_count: usize, len: u64) {
        self.bar.get_or_init(|| bar(len));
    }

    fn began(&self, path: &FilePath) {
        if let Some(bar) = self.bar.get() {
            bar.set_message(path.to_string());
        }
    }

    fn advanced(&self, len: u64) {
        if let Some(bar) = self.bar.get() {
            bar.inc(len);
        }
    }

    fn lost(&self, len: u64) {
        if let Some(bar) = self.bar.get() {
            bar.dec(len);
        }
    }

    fn retries(&self, path: &FilePath, why: &str, after: Duration) {
        self.say(&format!("{path}: {why}; again in {:.1} s", after.as_secs_f64()));
    }

    fn ended(&self, path: &FilePath, size: u64) {
        if self.names_files && self.shown().is_none() {
            self.say(&format!("{path} {}", HumanBytes(size)));
        }
    }
}
