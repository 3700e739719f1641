//! Tables for people: columns as wide as what stands in them.

use std::{fmt::Write, time::SystemTime};

use indicatif::HumanDuration;

/// Rows under a head; every row has as many cells.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Returns the lines, each with its end; the last column is not padded.
    pub(super) fn text(&self) -> String {
        let column_count = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..column_count).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Says how long ago something was; what lies in the future is now.
pub(super) fn ago(at: Option<SystemTime>, now: SystemTime) -> String {
    match at {
        Some(at) => format!("{} ago", HumanDuration(now.duration_since(at).unwrap_or_default())),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["ID", "SIZE", "REFS"]);
        table.row(["models/a".into(), "1 B".into(), String::new()]);
        table.row(["m".into(), "1.5 GiB".into(), "main".into()]);
        assert_eq!(table.text(), "ID        SIZE     REFS\nmodels/a  1 B\nm         1.5 GiB  main\n");
    }
}
