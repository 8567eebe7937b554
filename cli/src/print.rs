//! Answers on stdout, complaints on stderr.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON document; docs/reference.md has its fields.
    Json,
}

/// The flag of commands with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Printed {
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl Printed {
    /// Prints `text`, or `document`, whichever is asked for.
    ///
    /// # Errors
    /// Stdout's; [`is_closed`] tells those apart that are none.
    pub fn answer(self, text: impl Display, document: &impl Serialize) -> anyhow::Result<()> {
        match self.output {
            Output::Table => say(text)?,
            Output::Json => say(serde_json::to_string_pretty(document)?)?,
        }
        Ok(())
    }
}

/// Green and bold for what is good and for headings.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what wants attention.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// For what is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Of `--help`.
pub const STYLES: Styles = Styles::styled().header(GOOD).usage(GOOD).literal(AnsiColor::Cyan.on_default().bold()).error(BAD);

/// Prints a line, or some, to stdout, in colours only where those are seen.
///
/// # Errors
/// Stdout's. That its reader went away is one, too: [`is_closed`].
pub fn say(text: impl Display) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// As [`say`], in the middle of work that goes on whether anybody reads of it or not.
pub fn mention(text: impl Display) {
    // Nobody reads: nothing is lost but the words.
    let _said = say(text);
}

/// Says on stderr what went wrong, with its causes, and the next step to take where its words do not have it.
pub fn complain(program: &str, error: &anyhow::Error) {
    let mut err = anstream::stderr().lock();
    // There is nobody left to tell.
    let _said = writeln!(err, "{BAD}{program}:{BAD:#} {error:#}");
    if let Some(next) = crate::next::step(error) {
        let _said = writeln!(err, "  next: {next}");
    }
}

/// Says something on stderr that is no failure.
pub fn note(program: &str, text: impl Display) {
    let mut err = anstream::stderr().lock();
    let _said = writeln!(err, "{program}: {text}");
}

/// Whether it is only that whoever read the answer has seen enough, as `| head` does.
#[must_use]
pub fn is_closed(error: &anyhow::Error) -> bool {
    let is_closed = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    error.chain().any(is_closed)
}

/// Whether colours are seen on stderr: on a terminal, unless `NO_COLOR` says no; anywhere if `CLICOLOR_FORCE` says so.
#[must_use]
pub fn has_colours_on_stderr() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a reader who went away is known at any depth, and nothing else is taken for one.
    #[test]
    fn closed() {
        let closed = || anyhow::Error::new(io::Error::from(ErrorKind::BrokenPipe));
        assert!(is_closed(&closed()) && is_closed(&closed().context("printing")));
        assert!(!is_closed(&anyhow::Error::new(io::Error::from(ErrorKind::StorageFull))) && !is_closed(&anyhow::anyhow!("broken pipe")));
    }
}
