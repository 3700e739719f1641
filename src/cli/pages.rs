//! What the program tells of its own command line: manual pages, and scripts with which shells complete it.

use super::line::Line;
use clap::CommandFactory;
use std::{fs, io, path::Path};

/// Writes the script with which a shell completes our commands.
pub fn completions(shell: clap_complete::Shell, output: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut Line::command(), "dingospeed", output);
}

/// Writes the manual page of the program, or of one of its commands.
pub fn man(verb: Option<&str>, output: &mut dyn io::Write) -> io::Result<()> {
    let mut line = Line::command().disable_help_subcommand(true);
    // Gives the commands their full names and the flags that all have.
    line.build();
    let page = match verb.and_then(|verb| line.find_subcommand(verb)) {
        None => line,
        Some(command) => {
            let name = format!("dingospeed-{}", command.get_name());
            command.clone().display_name(name)
        }
    };
    clap_mangen::Man::new(page).render(output)
}

/// Writes all manual pages into a directory, which is made. Returns how many.
pub fn man_pages(dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let line = Line::command();
    let verbs: Vec<Option<&str>> = line.get_subcommands().map(|verb| Some(verb.get_name())).chain([None]).collect();
    for verb in &verbs {
        let name = verb.map_or_else(|| "dingospeed.1".to_owned(), |verb| format!("dingospeed-{verb}.1"));
        let mut page = Vec::new();
        man(*verb, &mut page)?;
        fs::write(dir.join(name), page)?;
    }
    Ok(verbs.len())
}
