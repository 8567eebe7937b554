//! Which SQL a run folds with: the file of the view, or what is built in.

use std::io::ErrorKind;
use std::path::Path;

use storage::manifest::{DefinitionFile, Definitions, FORMAT_VERSION, Manifest};
use storage::store::Store;
use views::Definition;

use crate::error::RunError;
use crate::options::RunOptions;

/// The view that needs no file.
const BUILT_IN: &str = "user_stats";

/// Reads and checks the definition of the view. The built-in one applies as long as nothing else was ever published: a folder
/// that is not where it should be must not undo a view.
pub(crate) fn load(options: &RunOptions, parent: Option<&Manifest>) -> Result<Definition, RunError> {
    let path = options.views_dir.join(format!("{}.sql", options.view));
    let file = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(sql) => Definition::parse(&sql, &options.events).map_err(|source| RunError::Definition { file, source }),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(RunError::Local { path: file, source: e }),
        Err(_) if options.view.as_str() == BUILT_IN => {
            let built_in = Definition::user_stats(&options.events);
            match parent.filter(|parent| parent.fingerprint != built_in.fingerprint()) {
                Some(parent) => Err(RunError::DefinitionGone { file: absolute(&path), version: parent.version }),
                None => Ok(built_in),
            }
        }
        Err(_) => Err(RunError::NoDefinition { view: options.view.to_string(), file }),
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Refuses another type of `amount` than the version before has: the speed layer folds both from one log.
pub(crate) async fn check_amount(definition: &Definition, options: &RunOptions, store: &Store, parent: &Manifest) -> Result<(), RunError> {
    let stored = Definitions::new(store.clone(), options.view.clone()).get(&parent.fingerprint).await?;
    let before = stored.schema.get("amount").and_then(|amount| amount.as_str()).unwrap_or_default().to_owned();
    let here = String::from(definition.schema().amount);
    match before == here {
        true => Ok(()),
        false => Err(RunError::AmountType { version: parent.version, before, here }),
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
