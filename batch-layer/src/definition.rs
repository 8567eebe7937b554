//! Which views there are, and which SQL a run folds with: the file of the view, or what is built in.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use storage::manifest::{DefinitionFile, Definitions, FORMAT_VERSION, Manifest};
use storage::paths::ViewName;
use storage::store::Store;
use views::schema::AttributeType;
use views::{Definition, EventSchema};

use crate::error::RunError;
use crate::options::RunOptions;

/// What the files of views end in.
const EXTENSION: &str = "sql";

/// The views that have a file in `views_dir`, and the built-in one, by name; and what is wrong with files that are named as no view
/// can be.
///
/// # Errors
/// The folder cannot be read.
pub fn declared(views_dir: &Path) -> Result<(BTreeSet<ViewName>, Vec<RunError>), RunError> {
    let (mut views, mut misnamed) = (BTreeSet::from([ViewName::user_stats()]), Vec::new());
    let local = |source| RunError::Local { path: views_dir.display().to_string(), source };
    let entries = match std::fs::read_dir(views_dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((views, misnamed)),
        entries => entries.map_err(local)?,
    };
    for entry in entries {
        let path = entry.map_err(local)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match name.try_into() {
                Ok(view) => drop(views.insert(view)),
                Err(source) => misnamed.push(RunError::ViewName { file: path.display().to_string(), source }),
            }
        }
    }
    Ok((views, misnamed))
}

/// Where the definition of the view is declared.
pub(crate) fn file_of(options: &RunOptions) -> PathBuf {
    file_in(&options.views_dir, &options.view)
}

fn file_in(views_dir: &Path, view: &ViewName) -> PathBuf {
    views_dir.join(format!("{view}.{EXTENSION}"))
}

/// The definition that the view's file declares; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or is no definition.
pub(crate) fn read(views_dir: &Path, view: &ViewName, events: &EventSchema) -> Result<Option<Definition>, RunError> {
    let path = file_in(views_dir, view);
    let file = path.display().to_string();
    let sql = match std::fs::read_to_string(&path) {
        Ok(sql) => sql,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(RunError::Local { path: file, source: e }),
    };
    let definition = Definition::parse(&sql, events).map_err(|source| RunError::Definition { file: file.clone(), source })?;
    let is_by_user_alone = definition.is_by_user() && definition.key_columns().len() == 1;
    match *view == ViewName::user_stats() && !is_by_user_alone {
        true => Err(RunError::UserStatsKey { file }),
        false => Ok(Some(definition)),
    }
}

/// Reads and checks the definition of the view. The built-in one applies as long as nothing else was ever published: a folder
/// that is not where it should be must not undo a view.
pub(crate) fn load(options: &RunOptions, parent: Option<&Manifest>) -> Result<Definition, RunError> {
    if let Some(definition) = read(&options.views_dir, &options.view, &options.events)? {
        return Ok(definition);
    }
    let file = file_of(options);
    if options.view != ViewName::user_stats() {
        return Err(RunError::NoDefinition { view: options.view.to_string(), file: file.display().to_string() });
    }
    let built_in = Definition::user_stats(&options.events);
    match parent.filter(|parent| parent.fingerprint != built_in.fingerprint()) {
        Some(parent) => Err(RunError::DefinitionGone { file: absolute(&file), version: parent.version }),
        None => Ok(built_in),
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Refuses types that could change a number of the version before: another one of `amount`, which the speed layer folds for both versions
/// from one number, and one of an attribute that does not hold all of its values as they are.
pub(crate) async fn check_types(definition: &Definition, options: &RunOptions, store: &Store, parent: &Manifest) -> Result<(), RunError> {
    let stored = Definitions::new(store.clone(), options.view.clone()).get(&parent.fingerprint).await?;
    let version = parent.version;
    let type_of = |column: &serde_json::Value| column.as_str().unwrap_or_default().to_owned();
    let before = stored.schema.get("amount").map(type_of).unwrap_or_default();
    let here = String::from(definition.schema().amount);
    if before != here {
        return Err(RunError::AmountType { version, before, here });
    }
    let used = definition.event_columns();
    for (name, here) in definition.schema().attributes.iter().filter(|(name, _)| used.contains(name)) {
        let Some(before) = stored.schema.get("attributes").and_then(|attributes| attributes.get(name)).map(type_of) else { continue };
        let widens = AttributeType::try_from(before.clone()).is_ok_and(|before| before.widens_to(*here));
        if !widens {
            return Err(RunError::AttributeType { version, name: name.clone(), before, here: (*here).into() });
        }
    }
    Ok(())
}

/// The definition that a version was computed with, as it is stored beside the manifests.
pub(crate) async fn of_version(store: &Store, manifest: &Manifest) -> Result<Definition, RunError> {
    let stored = Definitions::new(store.clone(), manifest.view.clone()).get(&manifest.fingerprint).await?;
    stored.parse().map_err(|source| RunError::StoredDefinition { version: manifest.version, source })
}

/// Where the first bucket starts that a version as of that moment keeps; `None` if it keeps all.
pub(crate) fn kept_from(definition: &Definition, as_of: Option<i64>) -> Result<Option<i64>, RunError> {
    let Some(as_of) = as_of else { return Ok(None) };
    definition.kept_from(as_of).map_err(|source| RunError::Limit { source })
}

/// Whether a version whose buckets are [kept from](kept_from) there lets go of some that `base` keeps. A limit lets go of whole buckets, so
/// between two of their ends it stands still.
pub(crate) fn limit_moved(definition: &Definition, base: &Manifest, kept: Option<i64>) -> Result<bool, RunError> {
    Ok(kept_from(definition, base.as_of)? != kept)
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
