//! `[console]`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[console]`, the pages that the serving layer shows people on its HTTP address.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// The program that rollbacks and recounts are done by: a path, or a name that is looked for beside the serving layer and then in PATH; empty
    /// means that the console offers the command alone.
    pub batch_layer: PathBuf,
    /// Names by which browsers may ask for it, beside `localhost` and IP addresses: a page of another name cannot be made to ask in its place.
    pub hosts: Vec<String>,
    /// The file that the settings are from, if the process was told one: whoever is started for the console is told it too.
    #[serde(skip)]
    pub settings_file: Option<PathBuf>,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { enabled: true, batch_layer: "batch-layer".into(), hosts: Vec::new(), settings_file: None }
    }
}

impl ConsoleConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        let is_name = |host: &String| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        match self.hosts.iter().find(|host| !is_name(host)) {
            Some(host) => Err(format!(
                "console.hosts: \"{host}\" is no name of a host; write it without scheme and port, such as \"console.example.com\""
            )),
            None => Ok(()),
        }
    }
}
