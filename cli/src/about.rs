//! What a program says about itself: completions for shells, man pages, its part of `docs/reference.md`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::print::say;
use crate::reference;

/// Sub-commands that every program has.
#[derive(Debug, Subcommand)]
pub enum About {
    /// Print what completes commands, options and values in a shell
    #[command(after_help = "bash:  source <(PROGRAM completions bash)\n\
                            zsh:   PROGRAM completions zsh > \"${fpath[1]}/_PROGRAM\"\n\
                            fish:  PROGRAM completions fish > ~/.config/fish/completions/PROGRAM.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page, or write those of all sub-commands into a folder
    #[command(after_help = "PROGRAM man | man -l -             reads it\n\
                            PROGRAM man ~/.local/share/man/man1   installs all of them")]
    Man {
        /// The folder, which is made; a page is PROGRAM-COMMAND.1
        dir: Option<PathBuf>,
    },
    /// Print this program's part of docs/reference.md
    #[command(hide = true)]
    Reference,
}

impl About {
    /// Does it for the program whose command line is `C`.
    ///
    /// # Errors
    /// What the disk or stdout says.
    pub fn run<C: CommandFactory>(&self) -> Result<()> {
        let mut command = C::command();
        let name = command.get_name().to_owned();
        match self {
            Self::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut command, &*name, &mut text);
                let text = if *shell == Shell::Bash { with_hyphens(&String::from_utf8(text)?, &name) } else { text };
                Ok(std::io::stdout().lock().write_all(&text)?)
            }
            Self::Man { dir: None } => {
                let mut text = Vec::new();
                clap_mangen::Man::new(command).render(&mut text)?;
                Ok(std::io::stdout().lock().write_all(&text)?)
            }
            Self::Man { dir: Some(dir) } => write_pages(command, dir).with_context(|| dir.display().to_string()),
            Self::Reference => Ok(say(reference::page(command).trim_end())?),
        }
    }
}

/// clap_complete 4.6 calls a program with a hyphen `a__b` where bash's script sets what is completed, and `a__subcmd__b` where it asks for it, so
/// that no sub-command's options would be offered.
fn with_hyphens(script: &str, program: &str) -> Vec<u8> {
    script.replace(&program.replace('-', "__subcmd__"), &program.replace('-', "__")).into_bytes()
}

fn write_pages(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A program.
    #[derive(Parser)]
    #[command(name = "program", version)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        /// Find things
        Find {
            /// What
            what: String,
        },
        #[command(flatten)]
        About(About),
    }

    /// Proves that a folder gets a page for the program and for each of its commands that is shown, and for no other.
    #[test]
    fn man_pages() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("man1");
        About::Man { dir: Some(dir.clone()) }.run::<Cli>().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["program-completions.1", "program-find.1", "program-man.1", "program.1"]);
        let page = std::fs::read_to_string(dir.join("program-find.1")).unwrap();
        assert!(page.contains("Find things"), "{page}");
    }
}
