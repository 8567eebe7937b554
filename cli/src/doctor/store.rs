//! The object store: may everything be done there that the layers do, and can what is there be read by this build?

use bytes::Bytes;
use storage::config::Config;
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Manifests, list_views};
use storage::paths;
use storage::store::{PutOutcome, Store, StoreError};

use super::disk::folder_of;
use super::finding::Report;

const CHECK: &str = "store";
const VERSIONS: &str = "versions";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let url = &config.store.url;
    // Opening makes the folder, and nothing is made here; `disk` has told whether it can be.
    if folder_of(url).is_some_and(|folder| !folder.is_dir()) {
        return report.good(CHECK, format!("{url} is not there yet; the first program that needs it makes it"));
    }
    let store = match config.store.open() {
        Ok(store) => store,
        Err(error) => return report.bad(CHECK, chain(error), "mend store.url, or the rights of this user there"),
    };
    rights("store.url", url, &store, report).await;
    if let Some(cold) = store.cold() {
        rights("store.cold", &config.store.cold, cold, report).await;
    }
    versions(&store, report).await;
}

/// Puts, puts again, reads, lists and deletes an object that nobody else looks at.
async fn rights(setting: &str, url: &str, store: &Store, report: &mut Report) {
    let next = "give this user the right to write, read, list and delete there, or name another store";
    match try_all(store).await {
        Ok(None) => report.good(CHECK, format!("{setting} = {url}: put, put if absent, get, list, delete")),
        Ok(Some(wrong)) => {
            report.bad(CHECK, format!("{setting} = {url}: {wrong}"), "use a store that keeps this; publishing rests on it");
        }
        Err((call, error)) => report.bad(CHECK, format!("{setting} = {url}: {call}: {}", chain(error)), next),
    }
}

/// What the store did otherwise than it should, or the call that failed. The object goes, however it ends.
async fn try_all(store: &Store) -> Result<Option<&'static str>, (&'static str, StoreError)> {
    let path = paths::probe(RealMachine.random());
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let tried = async {
        store.put_durable(&path, first.clone()).await.map_err(|e| ("put", e))?;
        if store.put_if_absent(&path, second).await.map_err(|e| ("put if absent", e))? != PutOutcome::Exists {
            return Ok(Some("a put if absent took the place of an object that is there"));
        }
        if store.get(&path).await.map_err(|e| ("get", e))? != first {
            return Ok(Some("what is read is not what was put"));
        }
        let listed = store.list(&paths::probes_folder()).await.map_err(|e| ("list", e))?;
        Ok((!listed.iter().any(|found| found.location == path)).then_some("an object that was put is not listed"))
    };
    let tried = tried.await;
    let deleted = store.delete(&path).await.map_err(|e| ("delete", e));
    let found = tried?;
    deleted?;
    Ok(found)
}

/// Whether the newest version of each view can be read.
async fn versions(store: &Store, report: &mut Report) {
    let views = match list_views(store).await {
        Ok(views) => views,
        Err(error) => return report.bad(VERSIONS, chain(error), "see what is in the folder views of the store"),
    };
    if views.is_empty() {
        return report.good(VERSIONS, "nothing is published yet");
    }
    let mut read = Vec::new();
    for view in views {
        match Manifests::new(store.clone(), view.clone()).latest().await {
            Ok(Some(manifest)) => read.push(format!("{view} v{} (format {})", manifest.version, manifest.format_version)),
            Ok(None) => {}
            Err(error @ StoreError::NewerFormat { .. }) => {
                report.bad(VERSIONS, format!("{view}: {}", chain(error)), "a newer release published it: install that release, here too");
            }
            Err(error) => {
                report.bad(
                    VERSIONS,
                    format!("{view}: {}", chain(error)),
                    "bring the manifest back from a copy of the store, or publish anew with `batch-layer run --force`",
                );
            }
        }
    }
    if !read.is_empty() {
        report.good(VERSIONS, read.join(", "));
    }
}

fn chain(error: StoreError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use storage::paths::{ManifestPath, ViewName};

    use super::super::finding::Mark;
    use super::*;

    fn config(folder: &std::path::Path) -> Config {
        let mut config = Config::default();
        config.store.url = folder.display().to_string();
        config
    }

    /// Proves that a store in which everything may be done is good and left as it was, and that one that is not there is not made.
    #[tokio::test]
    async fn sound() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("x");
        check(&config(folder.path()), &mut report).await;
        check(&config(&folder.path().join("later")), &mut report).await;
        let found = report.of(CHECK);
        assert!(found.iter().all(|(mark, _)| *mark == Mark::Good) && found.len() == 2, "{found:?}");
        let store = Store::open(&folder.path().display().to_string()).unwrap();
        assert_eq!(store.list(&paths::probes_folder()).await.unwrap().len(), 0);
        assert!(!folder.path().join("later").exists());
    }

    /// Proves that a manifest which this build cannot read is bad, one of a newer format among them, and names the view.
    #[tokio::test]
    async fn newer_and_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().display().to_string()).unwrap();
        for (name, text) in [("newer", r#"{"format_version": 1000}"#), ("damaged", "no manifest")] {
            let view: ViewName = name.parse().unwrap();
            store.put_durable(&ManifestPath { view, version: 1 }.path(), text.into()).await.unwrap();
        }
        let mut report = Report::new("x");
        check(&config(folder.path()), &mut report).await;
        let found = report.of(VERSIONS);
        assert!(found.iter().all(|(mark, _)| *mark == Mark::Bad) && found.len() == 2, "{found:?}");
        assert!(found[0].1.starts_with("damaged: ") && found[1].1.starts_with("newer: "), "{found:?}");
    }
}
