//! Exit codes, which mean the same in all three programs.

use std::process::ExitCode;

/// A code, and when a program ends with it.
pub type Meaning = (u8, &'static str);

/// It is done: published, sent, answered, sound.
pub const DONE: u8 = 0;
/// Refused or failed, and the same call will fail again.
pub const FAILED: u8 = 1;
/// The settings, or the call itself.
pub const CONFIGURATION: u8 = 2;
/// Another run is at work, or was first.
pub const BUSY: u8 = 3;
/// Something that it depends on is down: try again.
pub const TRY_AGAIN: u8 = 4;
/// A run had nothing to do.
pub const NOTHING_TO_DO: u8 = 99;
/// Stopped by a signal, as shells count it.
pub const INTERRUPTED: u8 = 130;

/// What ends with [`FAILED`], said more closely by some programs.
pub const MEANINGS: [Meaning; 5] = [
    (DONE, "done"),
    (FAILED, "refused or failed; doctor: something is amiss"),
    (CONFIGURATION, "the settings, the address or the call itself"),
    (TRY_AGAIN, "a server or the store cannot be reached, try again"),
    (INTERRUPTED, "stopped by Ctrl-C in the middle of its work"),
];

/// The text below a program's `--help`.
#[must_use]
pub fn help(meanings: &[Meaning]) -> String {
    let lines = meanings.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}"));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// How `program` ends: says what went wrong, if anything did. Whoever reads the answer through `| head` has seen enough: that is no
/// failure.
pub fn end(program: &str, outcome: anyhow::Result<u8>, code_of: impl Fn(&anyhow::Error) -> u8) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) if crate::print::is_closed(&error) => ExitCode::from(DONE),
        Err(error) => {
            crate::print::complain(program, &error);
            ExitCode::from(code_of(&error))
        }
    }
}
