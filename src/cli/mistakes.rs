//! What is wrong with a command line and with the configuration that it names.

/// Mistakes in the order in which they were found, each in one line.
#[derive(Debug, Default)]
pub struct Mistakes {
    lines: Vec<String>,
    /// How many of them are files of which nothing is known, because they could not be read.
    unread_count: usize,
}

impl Mistakes {
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Whether another try may go well though nobody has changed the configuration: a file that could not be read may be there by then,
    /// written by an agent or brought by a mount. False if there is any other mistake, and if there is none.
    pub fn may_pass(&self) -> bool {
        !self.lines.is_empty() && self.unread_count == self.lines.len()
    }

    pub(super) fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Notes a file that could not be read.
    pub(super) fn push_unread(&mut self, line: String) {
        self.lines.push(line);
        self.unread_count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl Extend<String> for Mistakes {
    fn extend<T: IntoIterator<Item = String>>(&mut self, lines: T) {
        self.lines.extend(lines);
    }
}
