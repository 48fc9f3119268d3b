//! `regimed completions` and `regimed man`: what the shell and `man` know of the command line, from
//! its one definition.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// Print a shell's completions
///
/// For instance: regimed completions bash > ~/.local/share/bash-completion/completions/regimed
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: Shell,
}

/// Print the man page, or write those of all commands to a folder
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for regimed.1, regimed-serve.1 and so on
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// Prints completions of `command`.
///
/// # Errors
/// Standard output is closed.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "regimed", &mut text);
    std::io::stdout().write_all(&text).context("standard output")
}

/// Prints the man page of `command`, or writes it and its commands' pages.
///
/// # Errors
/// A folder that cannot be written.
pub fn man(args: &ManArgs, command: Command) -> Result<()> {
    match &args.out {
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            std::io::stdout().write_all(&text).context("standard output")
        }
        Some(folder) => {
            let place = || folder.display().to_string();
            std::fs::create_dir_all(folder).with_context(place)?;
            clap_mangen::generate_to(command, folder).with_context(place)
        }
    }
}
