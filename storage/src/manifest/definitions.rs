//! View definitions beside the manifests, so that only the batch layer needs the `.sql` files.

use serde::{Deserialize, Serialize};
use views::{Definition, DefinitionError, EventSchema};

use super::FORMATS;
use crate::paths::{DefinitionPath, ViewName};
use crate::store::json::{decode, encode};
use crate::store::{PutOutcome, Store, StoreError};

/// A stored definition. It never changes under its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionFile {
    /// [`super::FORMAT_VERSION`] of whoever wrote it.
    pub format_version: u32,
    /// The SQL as it was given.
    pub sql: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The event schema it was checked against.
    pub schema: serde_json::Value,
}

/// A stored definition that this program cannot use.
#[derive(Debug, thiserror::Error)]
pub enum UnusableDefinition {
    /// Its event schema is none.
    #[error("the event schema beside it: {0}")]
    Schema(String),
    /// Its SQL is refused.
    #[error(transparent)]
    Sql(#[from] DefinitionError),
    /// Its states would be others here.
    #[error("it has the fingerprint {here} here: it was published by another version of merganser; run batch-layer of this version")]
    OtherMeaning {
        /// The fingerprint that this program gives it.
        here: String,
    },
}

impl DefinitionFile {
    /// The definition itself, if it means to this program what it meant to the one that stored it.
    ///
    /// # Errors
    /// It does not.
    pub fn parse(&self) -> Result<Definition, UnusableDefinition> {
        let schema: EventSchema = serde_json::from_value(self.schema.clone()).map_err(|e| UnusableDefinition::Schema(e.to_string()))?;
        schema.validate().map_err(|e| UnusableDefinition::Schema(e.to_string()))?;
        let definition = Definition::parse(&self.sql, &schema)?;
        match definition.fingerprint() == self.fingerprint {
            true => Ok(definition),
            false => Err(UnusableDefinition::OtherMeaning { here: definition.fingerprint().to_owned() }),
        }
    }
}

/// The definitions of one view.
#[derive(Clone, Debug)]
pub struct Definitions {
    store: Store,
    view: ViewName,
}

impl Definitions {
    /// The definitions of `view` in `store`.
    #[must_use]
    pub fn new(store: Store, view: ViewName) -> Self {
        Self { store, view }
    }

    /// Stores a definition, durably. If one of that fingerprint is there it stays: the two mean the same, though perhaps in
    /// other words.
    ///
    /// # Errors
    /// What the store says, and a stored definition that cannot be read.
    pub async fn put(&self, definition: &DefinitionFile) -> Result<(), StoreError> {
        let path = self.path(&definition.fingerprint)?;
        match self.store.put_if_absent(&path.path(), encode(definition).into()).await? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => self.get(&definition.fingerprint).await.map(|_| ()),
        }
    }

    /// The definition of that fingerprint.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NewerFormat`], and [`StoreError::Corrupt`] if it contradicts its name.
    pub async fn get(&self, fingerprint: &str) -> Result<DefinitionFile, StoreError> {
        let path = self.path(fingerprint)?.path();
        let definition: DefinitionFile = decode(&path, &self.store.get(&path).await?, FORMATS)?;
        if definition.fingerprint != fingerprint {
            return Err(StoreError::corrupt(&path, format!("it says its fingerprint is {}", definition.fingerprint)));
        }
        Ok(definition)
    }

    fn path(&self, fingerprint: &str) -> Result<DefinitionPath, StoreError> {
        Ok(DefinitionPath { view: self.view.clone(), fingerprint: fingerprint.parse()? })
    }
}
