//! Claims: which content has which number.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use views::EventSchema;
use views::schema::AttributeType;

use super::{FORMAT_VERSION, FORMATS, LAST_IMPORT, READS, path};
use crate::manifest::DefinitionFile;
use crate::paths::ImportObject;
use crate::store::json;
use crate::store::{Claim, Store, StoreError};

/// What an import is of: the same bytes, read in the same way, are the same import.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// BLAKE3 of the input's bytes as they are stored, in hex.
    pub content: String,
    /// BLAKE3 of the text of the mapping, in hex; none for a file of events.
    pub mapping: Option<String>,
    /// What the bytes were read as, such as `csv`.
    pub format: String,
}

/// What a new import is claimed with. One that was claimed before keeps its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Partitions among which users are divided.
    pub partitions: u32,
    /// Which columns an event has.
    pub events: EventSchema,
    /// On which views events are tried.
    pub views: Vec<DefinitionFile>,
    /// What the input is called, for people.
    pub name: String,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
}

/// Whose number it is. With the file it decides every byte of the import.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImportClaim {
    pub(super) format_version: u32,
    /// The number, from 1.
    pub import: i64,
    /// Which content it is, read in which way.
    pub identity: Identity,
    /// Partitions among which users are divided.
    pub partitions: u32,
    /// Which columns its events have.
    pub events: EventSchema,
    /// On which views its events are tried: one on which a view fails is refused.
    pub views: Vec<DefinitionFile>,
    /// When it was claimed, in microseconds since 1970.
    pub claimed_time_us: i64,
    /// What the input was called, for people.
    pub name: String,
}

impl ImportClaim {
    fn path(&self) -> ObjectPath {
        path(self.import, ImportObject::Claim)
    }

    /// Refuses to go on where today's terms are others than those of the claim.
    fn check(&self, terms: &Terms) -> Result<(), StoreError> {
        let refuse = |reason| Err(StoreError::Claimed { path: self.path().to_string(), reason });
        if self.partitions != terms.partitions {
            return refuse(format!("it was claimed for {} partitions, and here are {}", self.partitions, terms.partitions));
        }
        // One that was widened since is read as what it is now.
        let other = |(name, kind): (&String, &AttributeType)| terms.events.attributes.get(name).is_some_and(|here| !kind.widens_to(*here));
        let attribute =
            self.events.attributes.iter().find(|(name, kind)| other((name, *kind))).map(|(name, _)| format!("attributes.{name}"));
        match attribute.or_else(|| (self.events.amount != terms.events.amount).then(|| "amount".to_owned())) {
            Some(column) => refuse(format!("the type of events.{column} in merganser.toml is not what it was; set it back")),
            None => Ok(()),
        }
    }
}

/// The claims of a store, as far as they were read. They never change, so each is read once.
#[derive(Debug)]
pub struct Claims {
    store: Store,
    /// Those of 1, 2, 3 …
    known: Mutex<Vec<ImportClaim>>,
}

impl Claims {
    /// The claims of `store`. Nothing is read yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// The claim of `identity`, if there is one, on whatever terms.
    ///
    /// # Errors
    /// What the store says, and a damaged claim, by name.
    pub async fn find(&self, identity: &Identity) -> Result<Option<ImportClaim>, StoreError> {
        let mut known = self.known.lock().await;
        self.read_on(&mut known).await?;
        Ok(known.iter().find(|claim| claim.identity == *identity).cloned())
    }

    /// The claim of `identity`: the one that is there, or the next number. When this returns, it is durable.
    ///
    /// # Errors
    /// [`StoreError::Claimed`] if it was claimed on other terms; what the store says, and a damaged claim, by name;
    /// [`StoreError::UnknownOutcome`] if nobody can tell: the same call finds out.
    pub async fn claim(&self, identity: &Identity, terms: &Terms) -> Result<ImportClaim, StoreError> {
        let mut known = self.known.lock().await;
        let mut looked = 0;
        loop {
            self.read_on(&mut known).await?;
            if let Some(claim) = known[looked..].iter().find(|claim| claim.identity == *identity) {
                claim.check(terms)?;
                return Ok(claim.clone());
            }
            looked = known.len();
            let import = looked as i64 + 1;
            let claim = ImportClaim {
                format_version: FORMAT_VERSION,
                import,
                identity: identity.clone(),
                partitions: terms.partitions,
                events: terms.events.clone(),
                views: terms.views.clone(),
                claimed_time_us: terms.now_us,
                name: terms.name.clone(),
            };
            if import > LAST_IMPORT {
                let reason = format!("there is no number after {LAST_IMPORT}");
                return Err(StoreError::Claimed { path: claim.path().to_string(), reason });
            }
            match self.store.claim(&claim.path(), Bytes::from(json::encode(&claim))).await? {
                Claim::Ours => known.push(claim),
                Claim::Theirs(bytes) => known.push(parse(import, &bytes)?),
            }
        }
    }

    /// Reads what came after the last one known, several at a time, up to the first that is not there.
    async fn read_on(&self, known: &mut Vec<ImportClaim>) -> Result<(), StoreError> {
        let numbers = stream::iter(known.len() as i64 + 1..);
        let mut claims = numbers.map(|import| read(&self.store, import)).buffered(READS);
        while let Some(Some(claim)) = claims.try_next().await? {
            known.push(claim);
        }
        Ok(())
    }
}

pub(super) async fn read(store: &Store, import: i64) -> Result<Option<ImportClaim>, StoreError> {
    match store.get(&path(import, ImportObject::Claim)).await {
        Ok(bytes) => parse(import, &bytes).map(Some),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse(import: i64, bytes: &[u8]) -> Result<ImportClaim, StoreError> {
    let path = path(import, ImportObject::Claim);
    let claim: ImportClaim = json::decode(&path, bytes, FORMATS)?;
    match claim.import == import {
        true => Ok(claim),
        false => Err(StoreError::corrupt(&path, format!("it says it is import {}", claim.import))),
    }
}
