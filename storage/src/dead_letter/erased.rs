//! Refused rows of erased users, taken out of the objects of imports.
//!
//! **Consistency.** An object is written anew without them, whole, in the place of the one that is there; a reader in the middle of the
//! old one fails, and finds the new one when it is asked again. A keep-for of what stays is counted from then.
//!
//! **What a crash leaves behind.** Objects with and objects without them; those with them are found the next time.

use std::collections::BTreeMap;

use super::imports::ImportLetters;
use super::letter::DeadLetter;
use crate::erasures::Erasures;
use crate::paths::{ImportObject, ImportPath};
use crate::store::{Store, StoreError};

/// Whether an import refused the row of a user who was erased, whenever that came: what imports have lies below every erasure.
#[must_use]
pub fn is_erased(letter: &DeadLetter, erasures: &Erasures) -> bool {
    letter.user_id().is_some_and(|user_id| erasures.of_user(user_id).is_some())
}

/// Takes the rows of erased users out of what imports refused; the answer is how many. The refused rows of one import that stay are held
/// in memory.
///
/// # Errors
/// What the store says; an object that holds no letters, by name.
pub async fn forget_erased(store: &Store, erasures: &Erasures) -> Result<usize, StoreError> {
    if erasures.is_empty() {
        return Ok(0);
    }
    let mut found: BTreeMap<i64, usize> = BTreeMap::new();
    let mut letters = ImportLetters::find(store).await?;
    while let Some((import, _, letter)) = letters.next().await? {
        if is_erased(&letter, erasures) {
            *found.entry(import).or_default() += 1;
        }
    }
    for import in found.keys() {
        let mut letters = ImportLetters::find(store).await?.only(*import);
        let mut rest = Vec::new();
        while let Some((_, _, letter)) = letters.next().await? {
            if !is_erased(&letter, erasures) {
                rest.extend(serde_json::to_vec(&letter).expect("a letter is JSON"));
                rest.push(b'\n');
            }
        }
        let path = ImportPath { import: *import, object: ImportObject::DeadLetters }.path();
        match rest.is_empty() {
            true => store.delete(&path).await?,
            false => store.put_durable(&path, rest.into()).await?,
        }
    }
    Ok(found.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erasures::Erasure;

    /// Proves that rows of erased users go, whole objects of them too, and that every other row stays as it was, one without a user
    /// included.
    #[tokio::test]
    async fn rows_of_erased_users() {
        let store = Store::open("memory://").unwrap();
        let line = |event: serde_json::Value| {
            let letter = DeadLetter { received_time_us: 7, field: "amount".into(), reason: "is no number".into(), event };
            serde_json::to_string(&letter).unwrap() + "\n"
        };
        let of = |user: &str| line(serde_json::json!({ "user_id": user, "amount": "six" }));
        let path = |import| ImportPath { import, object: ImportObject::DeadLetters }.path();
        let text = async |import| store.get(&path(import)).await.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        let nobody = line(serde_json::json!("no object"));
        let objects = [[of("ann"), of("bob"), nobody.clone(), of("anna")].concat(), [of("ann"), of("ann")].concat(), of("bob")];
        for (import, object) in (1..).zip(&objects) {
            store.put_durable(&path(import), object.clone().into()).await.unwrap();
        }
        assert_eq!(forget_erased(&store, &Erasures::default()).await.unwrap(), 0);
        let erasures: Erasures = [Erasure::new(0, 3, "ann".to_owned(), 1)].into_iter().collect();
        assert_eq!(forget_erased(&store, &erasures).await.unwrap(), 3);
        assert_eq!(text(1).await.unwrap(), [of("bob"), nobody, of("anna")].concat());
        assert!(matches!(text(2).await, Err(StoreError::NotFound { .. })));
        assert_eq!(text(3).await.unwrap(), objects[2]);
        assert_eq!(forget_erased(&store, &erasures).await.unwrap(), 0);
    }
}
