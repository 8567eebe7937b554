//! Which SQL a run folds with: the file of the view, or what is built in.

use std::io::ErrorKind;

use storage::manifest::{DefinitionFile, FORMAT_VERSION};
use views::Definition;

use crate::error::RunError;
use crate::options::RunOptions;

/// The view that needs no file.
const BUILT_IN: &str = "user_stats";

/// Reads and checks the definition of the view.
pub(crate) fn load(options: &RunOptions) -> Result<Definition, RunError> {
    let path = options.views_dir.join(format!("{}.sql", options.view));
    let file = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(sql) => Definition::parse(&sql, &options.events).map_err(|source| RunError::Definition { file, source }),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(RunError::Local { path: file, source: e }),
        Err(_) if options.view.as_str() == BUILT_IN => Ok(Definition::user_stats(&options.events)),
        Err(_) => Err(RunError::NoDefinition { view: options.view.to_string(), file }),
    }
}

/// The definition as it is stored beside the manifests.
pub(crate) fn stored(definition: &Definition) -> DefinitionFile {
    DefinitionFile {
        format_version: FORMAT_VERSION,
        sql: definition.sql().to_owned(),
        fingerprint: definition.fingerprint().to_owned(),
        schema: serde_json::to_value(definition.schema()).expect("names and types of columns are JSON"),
    }
}
