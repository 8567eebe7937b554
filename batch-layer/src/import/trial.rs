//! Events are tried under every view, as the speed layer tries what it is sent: one on which a view fails would stop all runs of that view, and
//! an import cannot be taken back.

use std::collections::BTreeMap;

use storage::manifest::{DefinitionFile, Definitions, Manifest};
use storage::store::Store;
use views::{Definition, Event, EventSchema, FoldError, fold};

use super::rows::{Outcome, shown_event};
use super::{ImportError, ImportOptions};
use crate::definition;

/// The definitions that there are now: of the newest versions, and of the files that declare views. Each fingerprint once, in their order.
///
/// # Errors
/// [`ImportError::Published`] and [`ImportError::Declared`] if one cannot be used, or has a column of another type than `options.events`;
/// what the store says.
pub(super) async fn definitions(options: &ImportOptions, store: &Store, newest: &[Manifest]) -> Result<Vec<DefinitionFile>, ImportError> {
    let mut found = BTreeMap::new();
    for manifest in newest.iter().filter(|manifest| !manifest.withdrawn) {
        let stored = Definitions::new(store.clone(), manifest.view.clone()).get(&manifest.fingerprint).await?;
        let unusable = |reason| ImportError::Published { version: manifest.version, view: manifest.view.to_string(), reason };
        let parsed = stored.parse().map_err(|e| unusable(e.to_string()))?;
        if let Some(column) = other_type(parsed.schema(), &options.events) {
            let reason =
                format!("events.{column} had another type there than in merganser.toml; set it back, or publish with that type first");
            return Err(unusable(reason));
        }
        found.insert(stored.fingerprint.clone(), stored);
    }
    let (views, misnamed) = definition::declared(&options.views_dir)?;
    if let Some(misnamed) = misnamed.into_iter().next() {
        return Err(misnamed.into());
    }
    for view in views {
        if let Some(declared) = definition::read(&options.views_dir, &view, &options.events)? {
            found.insert(declared.fingerprint().to_owned(), definition::stored(&declared));
        }
    }
    Ok(found.into_values().collect())
}

/// The first column that both have, in two types.
fn other_type(there: &EventSchema, here: &EventSchema) -> Option<String> {
    let differs = |(name, kind): &(&String, _)| here.attributes.get(*name).is_some_and(|here| here != *kind);
    let attribute = there.attributes.iter().find(differs).map(|(name, _)| format!("attributes.{name}"));
    attribute.or_else(|| (there.amount != here.amount).then(|| "amount".to_owned()))
}

/// What events are tried on.
pub(super) struct Trial(Vec<Definition>);

impl Trial {
    /// # Errors
    /// [`ImportError::Claimed`] if this program cannot use a definition, which one of another release has claimed the import with.
    pub(super) fn new(import: i64, views: &[DefinitionFile]) -> Result<Self, ImportError> {
        let parse = |file: &DefinitionFile| file.parse().map_err(|e| ImportError::Claimed { import, reason: e.to_string() });
        Ok(Self(views.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Refuses the events on which a view fails, each by itself.
    pub(super) fn judge(&self, mut outcomes: Vec<Outcome>, schema: &EventSchema) -> Vec<Outcome> {
        for definition in &self.0 {
            if failure(definition, events(&outcomes)).is_none() {
                continue;
            }
            for outcome in &mut outcomes {
                if let Outcome::Event(event) = outcome
                    && let Some(error) = failure(definition, [&*event])
                {
                    *outcome = Outcome::Refused(error.into(), shown_event(event, schema));
                }
            }
        }
        outcomes
    }

    /// The first event on which a view fails, by its id, and why.
    pub(super) fn first_failure(&self, outcomes: &[Outcome]) -> Option<(String, String)> {
        let failing = self.0.iter().find(|definition| failure(definition, events(outcomes)).is_some())?;
        events(outcomes).find_map(|event| Some((event.event_id.clone(), failure(failing, [event])?.reason())))
    }
}

fn events(outcomes: &[Outcome]) -> impl Iterator<Item = &Event> {
    outcomes.iter().filter_map(|outcome| if let Outcome::Event(event) = outcome { Some(event) } else { None })
}

/// As the speed layer tries them; partitions come later.
fn failure<'a>(definition: &Definition, events: impl IntoIterator<Item = &'a Event>) -> Option<FoldError> {
    fold::failure(definition, 0, events)
}
