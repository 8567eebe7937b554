//! What was found, for people and for programs.

use std::fmt;

use anstyle::Style;
use serde::Serialize;

use crate::print::{BAD, GOOD, WARNING};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// As it should be.
    Good,
    /// It works, and somebody should know.
    Warning,
    /// It keeps the program from its work.
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) mark: Mark,
    pub(super) what: String,
    /// What to do about it.
    pub(super) next: Option<String>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    program: &'static str,
    version: &'static str,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(program: &'static str) -> Self {
        Self { program, version: env!("CARGO_PKG_VERSION"), findings: Vec::new() }
    }

    pub(super) fn good(&mut self, check: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { check, mark: Mark::Good, what: what.into(), next: None });
    }

    pub(super) fn warn(&mut self, check: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.findings.push(Finding { check, mark: Mark::Warning, what: what.into(), next: Some(next.into()) });
    }

    pub(super) fn bad(&mut self, check: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.findings.push(Finding { check, mark: Mark::Bad, what: what.into(), next: Some(next.into()) });
    }

    /// Whether nothing keeps the program from its work.
    pub(super) fn is_healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.mark != Mark::Bad)
    }

    /// The marks and texts of one check.
    #[cfg(test)]
    pub(super) fn of(&self, check: &str) -> Vec<(Mark, String)> {
        self.findings.iter().filter(|finding| finding.check == check).map(|finding| (finding.mark, finding.what.clone())).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { check, mark, what, next } in &self.findings {
            let (sign, style): (_, Style) = match mark {
                Mark::Good => ('✔', GOOD),
                Mark::Warning => ('!', WARNING),
                Mark::Bad => ('✘', BAD),
            };
            writeln!(f, "{style}{sign}{style:#} {check:<8} {what}")?;
            if let Some(next) = next {
                writeln!(f, "  {:<8} next: {next}", "")?;
            }
        }
        let count = |mark| self.findings.iter().filter(|finding| finding.mark == mark).count();
        match (count(Mark::Bad), count(Mark::Warning)) {
            (0, 0) => write!(f, "{} can do its work", self.program),
            (0, warnings) => write!(f, "{} can do its work; {warnings} to look at", self.program),
            (bad, warnings) => write!(f, "{bad} to mend before {} can do its work, {warnings} to look at", self.program),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that only what is bad makes a report unhealthy, and that each finding stands with its next step.
    #[test]
    fn reports() {
        let mut report = Report::new("speed-layer");
        report.good("disk", "there is room");
        report.warn("clock", "it is late", "go home");
        assert!(report.is_healthy());
        report.bad("ports", "taken", "take another");
        assert!(!report.is_healthy());
        let text = anstream::adapter::strip_str(&report.to_string()).to_string();
        assert_eq!(
            text,
            "✔ disk     there is room\n! clock    it is late\n           next: go home\n✘ ports    taken\n           next: take another\n1 to mend before speed-layer can do its work, 1 to look at"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][2]["mark"], "bad");
        assert_eq!(json["findings"][0]["next"], serde_json::Value::Null);
    }
}
