//! Erasure of a user: the speed layer appends the record, runs carry it out, and a receipt says how far that is.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, SecondsFormat};
use storage::config::{ClientConfig, TlsConfig};
use storage::erasures::{Erasure, Erasures, Receipt};
use storage::manifest::{Definitions, Manifest, newest_versions};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};
use tracing::warn;

use crate::error::RunError;
use crate::service::SpeedLayer;
use crate::table::aligned;

/// An erasure, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// What is kept of it in the store.
    pub receipt: Receipt,
    /// Views by user: they have nothing of the user from the moment of the erasure on.
    pub at_once: Vec<ViewName>,
    /// Views whose newest version was computed before it.
    pub waiting: Vec<ViewName>,
}

/// Erases a user. When this returns, nothing of what came before counts for views by user, and a receipt is in the store.
///
/// # Errors
/// The speed layer cannot be reached, or refuses the id; the store fails. [`RunError::SpeedFailed`] may come after the user was erased,
/// and says so then; erasing again is harmless.
pub async fn erase(store: &Store, speed_layer: &str, tls: &TlsConfig, client: &ClientConfig, user_id: &str) -> Result<Erased, RunError> {
    let mut speed = SpeedLayer::connect(speed_layer, tls, client, "; nobody is erased until it writes so into its log").await?;
    let erasure = speed.erase(user_id).await?;
    let views = Views::read(store).await?;
    Ok(views.settle(store, &erasure).await?)
}

/// Every erasure, the oldest of each partition first. Receipts are brought up to date on the way.
///
/// # Errors
/// What the store says.
pub async fn erasures(store: &Store) -> Result<Vec<Erased>, StoreError> {
    let views = Views::read(store).await?;
    let mut found = Vec::new();
    for erasure in Erasures::list(store).await?.iter() {
        found.push(views.settle(store, erasure).await?);
    }
    Ok(found)
}

/// Best effort: notes in the receipts of erasures that the version of `manifest` has carried them out. `before` is the boundary of the
/// version before.
pub(crate) async fn note(store: &Store, erasures: &Erasures, manifest: &Manifest, before: &[i64]) {
    for erasure in erasures.from(before).iter() {
        let noted = async {
            let mut receipt = Receipt::read(store, erasure).await?.unwrap_or_else(|| fresh(erasure));
            receipt.carried_out.entry(manifest.view.to_string()).or_insert(manifest.version);
            receipt.write(store).await
        };
        if let Err(error) = noted.await {
            warn!(partition = erasure.partition, offset = erasure.offset, %error, "the receipt of an erasure could not be written");
        }
    }
}

fn fresh(erasure: &Erasure) -> Receipt {
    let time = DateTime::from_timestamp_micros(erasure.append_time_us).unwrap_or_default();
    Receipt::new(erasure, time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The newest version of each view that is answered, and whether the view is one by user.
struct Views(BTreeMap<ViewName, (Manifest, bool)>);

impl Views {
    async fn read(store: &Store) -> Result<Self, StoreError> {
        let mut views = BTreeMap::new();
        for newest in newest_versions(store).await?.into_iter().filter(|newest| !newest.withdrawn) {
            let definition = Definitions::new(store.clone(), newest.view.clone()).get(&newest.fingerprint).await?;
            // One of a later release may be of any kind.
            let is_by_user = definition.parse().is_ok_and(|definition| definition.is_by_user());
            views.insert(newest.view.clone(), (newest, is_by_user));
        }
        Ok(Self(views))
    }

    /// Brings the receipt of an erasure up to date.
    async fn settle(&self, store: &Store, erasure: &Erasure) -> Result<Erased, StoreError> {
        let kept = Receipt::read(store, erasure).await?;
        let mut receipt = kept.clone().unwrap_or_else(|| fresh(erasure));
        let (mut waiting, mut at_once) = (Vec::new(), Vec::new());
        for (view, (newest, is_by_user)) in &self.0 {
            match newest.boundary.get(erasure.partition as usize).is_some_and(|boundary| erasure.offset < *boundary) {
                true => drop(receipt.carried_out.entry(view.to_string()).or_insert(newest.version)),
                false => waiting.push(view.clone()),
            }
            at_once.extend(is_by_user.then(|| view.clone()));
        }
        if kept.as_ref() != Some(&receipt) {
            receipt.write(store).await?;
        }
        Ok(Erased { receipt, at_once, waiting })
    }
}

/// What a person is told who erased somebody.
impl fmt::Display for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { receipt, at_once, waiting } = self;
        let names = |views: &[ViewName]| match views {
            [] => "none".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let later: Vec<_> = waiting.iter().filter(|view| !at_once.contains(view)).cloned().collect();
        writeln!(f, "erased      {}", receipt.user_id)?;
        writeln!(f, "record      offset {} of partition {}, {}", receipt.offset, receipt.partition, receipt.erase_time)?;
        writeln!(f, "now         nothing of them in answers of views by user: {}", names(at_once))?;
        writeln!(f, "next run    nothing of them in other views: {}", names(&later))?;
        writeln!(f, "then        versions computed before are neither asked for nor rolled back to; files go as they expire")?;
        write!(f, "receipt     {}", receipt.path().receipt())
    }
}

/// The erasures as a table.
#[must_use]
pub fn table(erasures: &[Erased]) -> String {
    if erasures.is_empty() {
        return "nobody was erased".to_owned();
    }
    aligned(["erased", "user", "partition", "offset", "carried out by", "waits for a run of"], erasures.iter().map(cells))
}

fn cells(Erased { receipt, waiting, .. }: &Erased) -> [String; 6] {
    let carried_out = receipt.carried_out.iter().map(|(view, version)| format!("{view} v{version}")).collect::<Vec<_>>();
    let waiting = waiting.iter().map(ToString::to_string).collect::<Vec<_>>();
    let or_none = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    [
        receipt.erase_time.clone(),
        receipt.user_id.clone(),
        receipt.partition.to_string(),
        receipt.offset.to_string(),
        or_none(carried_out),
        or_none(waiting),
    ]
}
