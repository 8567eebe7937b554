//! `doctor`: what could keep a program from its work, looked at before it hurts, each finding with the next step to take.
//!
//! It changes nothing that stays: what it writes to try a disk or a store it takes away again. `examine` is the list of checks, and
//! the place for more.

/// Certificates.
mod certificates;
/// The time of day.
mod clock;
/// The settings.
mod config;
/// Folders: room, syncs, what kind of file system.
mod disk;
/// Who is let in, and with what this program calls.
mod doors;
/// What one program found.
mod finding;
/// How many files may be open.
mod handles;
/// Addresses: free, or who answers.
mod ports;
/// What may be done in the store, and whether what is there can be read.
mod store;

use std::path::Path;

use crate::exit;
use crate::print::Printed;
use finding::Report;

/// A program that is examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Takes events in.
    SpeedLayer,
    /// Recomputes.
    BatchLayer,
    /// Answers.
    ServingLayer,
}

impl Program {
    /// Of its binary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpeedLayer => "speed-layer",
            Self::BatchLayer => "batch-layer",
            Self::ServingLayer => "serving-layer",
        }
    }
}

/// Examines the machine for `program`, prints what it finds, and gives the exit code.
///
/// # Errors
/// Stdout's.
pub async fn run(program: Program, file: Option<&Path>, printed: Printed) -> anyhow::Result<u8> {
    let report = examine(program, file).await;
    printed.answer(&report, &report)?;
    Ok(if report.is_healthy() { exit::DONE } else { exit::FAILED })
}

async fn examine(program: Program, file: Option<&Path>) -> Report {
    let mut report = Report::new(program.name());
    let Some(config) = config::check(file, std::env::vars(), &mut report) else {
        // Without settings nobody knows where to look.
        handles::check(&mut report);
        return report;
    };
    disk::check(program, &config, &mut report);
    certificates::check(program, &config.tls, &mut report);
    doors::check(program, &config, &mut report);
    clock::check(program, &config, &mut report).await;
    ports::check(program, &config, &mut report).await;
    store::check(&config, &mut report).await;
    siblings(program, &mut report);
    handles::check(&mut report);
    report
}

/// Whether the programs beside this one are of the same build.
fn siblings(program: Program, report: &mut Report) {
    const CHECK: &str = "builds";
    let Ok(this) = std::env::current_exe() else { return };
    let own = env!("CARGO_PKG_VERSION");
    let others = [Program::SpeedLayer, Program::BatchLayer, Program::ServingLayer].into_iter().filter(|other| *other != program);
    let mut same = Vec::new();
    for other in others {
        let path = this.with_file_name(other.name());
        if !path.exists() {
            continue;
        }
        let said = std::process::Command::new(&path).arg("--version").output();
        let version = said.ok().and_then(|said| Some(String::from_utf8(said.stdout).ok()?.split_whitespace().nth(1)?.to_owned()));
        match version {
            Some(version) if version == own => same.push(other.name()),
            Some(version) => report.warn(
                CHECK,
                format!("{} beside this program is {version}, this is {own}", path.display()),
                "install the three programs of one release; what a newer one publishes an older one may refuse to read",
            ),
            None => report.warn(CHECK, format!("{} does not say which version it is", path.display()), "build or install it again"),
        }
    }
    let with = if same.is_empty() { "; no other program is beside it".to_owned() } else { format!(", as {}", same.join(" and ")) };
    report.good(CHECK, format!("{} {own}{with}", program.name()));
}
