//! What people do by this program is written down: who, what, and how it ended.

use std::sync::Arc;

use merganser_proto::audit::{Act, Audit};
use storage::config::Config;
use storage::machine::{RealMachine, operator};
use storage::paths::ViewName;

use crate::Command;

/// Where acts are written down.
#[derive(Clone)]
pub(crate) struct Acts(Audit);

impl Acts {
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(Self(cli::auth::audit("batch-layer", &config.auth, Arc::new(RealMachine))?))
    }

    /// Writes down that an act begins, then what became of it. A program that is killed in between leaves the first line alone.
    pub(crate) async fn begin(&self, act: Act) -> Begun {
        self.0.record(act.clone().begun()).await;
        Begun { audit: self.0.clone(), act }
    }
}

/// An act that has begun.
pub(crate) struct Begun {
    audit: Audit,
    act: Act,
}

impl Begun {
    /// It ended with this exit code, or this error.
    pub(crate) async fn ended(self, outcome: &anyhow::Result<u8>) {
        let act = match outcome {
            Ok(0) => self.act,
            Ok(code) => self.act.failed(&format!("exit code {code}")),
            Err(error) => self.act.failed(&format!("{error:#}")),
        };
        self.audit.record(act).await;
    }

    /// Somebody stopped the program in the middle.
    pub(crate) async fn interrupted(self) {
        self.audit.record(self.act.failed("interrupted")).await;
    }
}

/// The act that a command is; none for what changes nothing, and for runs, which are no more than their schedule.
pub(crate) fn of(command: &Command, view: Option<&ViewName>) -> Option<Act> {
    let by = |name: &'static str| Act::new(name).by_person(operator());
    let one = view.map_or_else(|| ViewName::user_stats().to_string(), ToString::to_string);
    Some(match command {
        Command::Run { accept_difference: Some(run_id), .. } => by("accept-difference").with("run_id", run_id.to_string()),
        Command::Withdraw { name } => by("withdraw").with("view", name.to_string()),
        Command::Import { inputs, .. } => by("import").with("inputs", inputs.clone()),
        Command::Rollback { version, .. } => by("rollback").with("view", one).with("version", *version),
        Command::Expire { dry_run: false } => by("expire").with("view", view.map_or_else(|| "all".to_owned(), ToString::to_string)),
        Command::Compact => by("compact"),
        Command::Erase { user, .. } => by("erase").with("user_id", user.as_str()),
        _ => return None,
    })
}

/// What a schedule does behind a run.
pub(crate) fn of_schedule(name: &'static str) -> Act {
    Act::new(name).by_person(operator()).with("by_schedule", true)
}
