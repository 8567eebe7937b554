//! Which settings there are, and where they come from.

use std::path::Path;

use storage::config::Config;

use super::finding::Report;

const CHECK: &str = "config";
const DEFAULT_FILE: &str = "merganser.toml";

/// The settings, if they can be used.
pub(super) fn check(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>, report: &mut Report) -> Option<Config> {
    let environment: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with("MERGANSER_")).collect();
    let names = environment.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let origin = match file {
        Some(file) => file.display().to_string(),
        None if Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE.to_owned(),
        None => format!("built-in defaults, for there is no {DEFAULT_FILE} in this folder"),
    };
    let beside = if names.is_empty() { String::new() } else { format!("; from the environment {names}") };
    match Config::load(file, environment) {
        Ok(config) => {
            report.good(CHECK, format!("{origin}{beside}"));
            Some(config)
        }
        Err(error) => {
            let text = format!("{:#}", anyhow::Error::new(error)).replace('\n', "\n           ");
            report.bad(CHECK, text, "mend the setting; docs/reference.md has all of them");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    /// Proves that file and variables are named, and that settings which cannot be used are bad, with what is wrong in them.
    #[test]
    fn settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, "[log]\npartitions = 2\n").unwrap();
        let variable = |value: &str| [("MERGANSER_LOG__PARTITIONS".to_owned(), value.to_owned()), ("HOME".to_owned(), "/".to_owned())];
        let mut report = Report::new("x");
        assert_eq!(check(Some(&file), variable("3"), &mut report).unwrap().log.partitions, 3);
        let found = report.of(CHECK);
        assert!(found[0].1.contains("settings.toml; from the environment MERGANSER_LOG__PARTITIONS"), "{found:?}");
        assert!(check(Some(&file), variable("0"), &mut report).is_none());
        assert!(check(Some(&folder.path().join("none.toml")), [], &mut report).is_none());
        assert_eq!(report.of(CHECK).iter().map(|(mark, _)| *mark).collect::<Vec<_>>(), [Mark::Good, Mark::Bad, Mark::Bad]);
    }
}
