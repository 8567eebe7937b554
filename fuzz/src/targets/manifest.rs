//! The text of a manifest, or of a stored definition, as it lies in the store: refused, naming the object, or decoded to what
//! its own JSON decodes to again.

use futures::executor::block_on;
use serde_json::Value;
use storage::manifest::{DefinitionFile, Definitions, Manifest, Manifests};
use storage::paths::{DefinitionPath, ManifestPath, ViewName};
use storage::store::{Store, StoreError};
use views::EventSchema;

use crate::memory::largest_of;

/// What no allocation may exceed, next to the size of the text: a dozen small structs for every byte.
const BYTES_PER_BYTE: usize = 200;

pub(crate) fn run(input: &[u8]) {
    let json: Value = serde_json::from_slice(input).unwrap_or_default();
    let ((), largest) = largest_of(|| {
        manifest(input, &json);
        definition(input, &json);
    });
    assert!(largest <= (64 << 10) + BYTES_PER_BYTE * input.len(), "{largest} bytes at once for a text of {}", input.len());
}

fn view() -> ViewName {
    "user_stats".parse().expect("it is a name")
}

fn manifest(input: &[u8], json: &Value) {
    let version = json["version"].as_i64().filter(|version| *version > 0).unwrap_or(42);
    let path = ManifestPath { view: view(), version }.path();
    let read = |bytes: &[u8]| {
        let store = Store::open("memory://").expect("memory is there");
        block_on(store.put_durable(&path, bytes.to_vec().into())).expect("memory takes objects");
        block_on(Manifests::new(store, view()).read(version))
    };
    let manifest = match read(input) {
        Ok(manifest) => manifest,
        Err(error) => return names(&error, path.as_ref()),
    };
    assert_eq!((manifest.version, &manifest.view), (version, &view()), "a manifest answers to its name");
    not_contradictory(&manifest);
    let again = serde_json::to_vec(&manifest).expect("it was JSON");
    assert_eq!(read(&again).expect("it was read before"), manifest);
}

/// What a reader relies on without looking.
fn not_contradictory(manifest: &Manifest) {
    let rows: i128 = manifest.files.iter().map(|file| i128::from(file.rows)).sum();
    assert_eq!(rows, i128::from(manifest.row_count), "rows of files and of the manifest");
    let shards: Vec<usize> = manifest.files.iter().map(|file| file.shard as usize).collect();
    assert!(!shards.is_empty() && shards == (0..shards.len()).collect::<Vec<_>>(), "shards {shards:?}");
    let counts = [manifest.event_count, manifest.late_duplicate_count, manifest.conflict_count];
    let counts = counts.iter().chain(&manifest.boundary).chain(manifest.files.iter().flat_map(|file| [&file.rows, &file.bytes]));
    assert!(counts.into_iter().all(|count| *count >= 0), "a count below zero");
}

fn definition(input: &[u8], json: &Value) {
    let fingerprint = json["fingerprint"].as_str().filter(|text| text.parse::<storage::paths::Id>().is_ok()).unwrap_or("f1");
    let path = DefinitionPath { view: view(), fingerprint: fingerprint.parse().expect("it is an id") }.path();
    let read = |bytes: &[u8]| {
        let store = Store::open("memory://").expect("memory is there");
        block_on(store.put_durable(&path, bytes.to_vec().into())).expect("memory takes objects");
        block_on(Definitions::new(store, view()).get(fingerprint))
    };
    let stored: DefinitionFile = match read(input) {
        Ok(stored) => stored,
        Err(error) => return names(&error, path.as_ref()),
    };
    assert_eq!(stored.fingerprint, fingerprint, "a definition answers to its name");
    // Any JSON may stand where the schema should: its numbers are kept only if it is one.
    if serde_json::from_value::<EventSchema>(stored.schema.clone()).is_ok() {
        let again = serde_json::to_vec(&stored).expect("it was JSON");
        assert_eq!(read(&again).expect("it was read before"), stored);
    }
}

fn names(error: &StoreError, path: &str) {
    let text = error.to_string();
    assert!(text.contains(path), "{path} is not named: {text}");
}
