//! Answers as JSON, for `--output json`. Field names are part of the command line: docs/reference.md lists them.

use std::collections::BTreeMap;

use batch_layer::compact::Compacted;
use batch_layer::erase::Erased;
use batch_layer::expire::Expiry;
use batch_layer::import::{ImportSummary, Imported};
use batch_layer::{Recount, RunOutcome, Verified};
use serde_json::{Value, json};
use storage::imports::ImportMeta;
use storage::manifest::Manifest;
use storage::paths::ViewName;

/// One run over one view, which ended well.
pub(crate) fn of_run(view: &ViewName, outcome: &RunOutcome) -> Value {
    match outcome {
        RunOutcome::Published(report) => json!({ "view": view, "outcome": "published", "exit_code": 0, "report": report }),
        RunOutcome::NothingToDo(reason) => {
            json!({ "view": view, "outcome": "nothing_to_do", "exit_code": cli::exit::NOTHING_TO_DO, "reason": reason.to_string() })
        }
    }
}

/// One run over one view, or over what could not be a view, which failed.
pub(crate) fn of_failure(view: &str, exit_code: u8, error: &str) -> Value {
    json!({ "view": view, "outcome": "failed", "exit_code": exit_code, "error": error })
}

/// All runs of one call.
pub(crate) fn of_runs(runs: &[Value], exit_code: u8) -> Value {
    json!({ "runs": runs, "exit_code": exit_code })
}

pub(crate) fn of_versions(view: &ViewName, versions: &[Manifest], expired: &[i64]) -> Value {
    let version = |m: &Manifest| {
        json!({
            "version": m.version,
            "parent": m.parent,
            "built_upon": m.built_upon,
            "run_id": m.run_id,
            "created_time": m.created_time,
            "boundary": m.boundary,
            "imports": m.imports,
            "event_count": m.event_count,
            "row_count": m.row_count,
            "late_duplicate_count": m.late_duplicate_count,
            "conflict_count": m.conflict_count,
            "bytes": m.files.iter().map(|file| file.bytes).sum::<i64>(),
            "fingerprint": m.fingerprint,
            "digest": m.digest,
            "withdrawn": m.withdrawn,
            "accepted_difference": m.accepted_difference,
        })
    };
    json!({ "view": view, "versions": versions.iter().map(version).collect::<Vec<_>>(), "expired": expired })
}

/// A version that was published without being computed. `content_of` is the older one.
pub(crate) fn of_published(manifest: &Manifest, content_of: Option<i64>) -> Value {
    json!({ "view": manifest.view, "version": manifest.version, "withdrawn": manifest.withdrawn, "content_of": content_of })
}

/// `keys_compared` is null where only bytes were compared.
pub(crate) fn of_verified(view: &ViewName, verified: Option<&Verified>, recompute: bool) -> Value {
    let Some(Verified { manifest, keys_compared }) = verified else { return json!({ "view": view, "version": null }) };
    json!({
        "view": view,
        "version": manifest.version,
        "sound": true,
        "files": manifest.files.len(),
        "row_count": manifest.row_count,
        "keys_compared": recompute.then_some(keys_compared),
    })
}

pub(crate) fn of_recount(view: &ViewName, recount: Option<&Recount>) -> Value {
    let Some(recount) = recount else { return json!({ "view": view, "version": null }) };
    json!({
        "view": view,
        "version": recount.manifest.version,
        "sound": recount.differences.keys == 0,
        "boundary": recount.manifest.boundary,
        "cut": recount.cut,
        "rows_read": recount.rows_read,
        "repeats": recount.repeats,
        "keys_compared": recount.keys_compared,
        "differing_keys": recount.differences.keys,
        "table": recount.table,
    })
}

pub(crate) fn of_import(summary: &ImportSummary) -> Value {
    let file = |(input, file): &(String, Result<Imported, batch_layer::import::ImportError>)| match file {
        Ok(Imported::Now(meta, reasons)) => json!({ "input": input, "outcome": "imported", "import": meta, "refused_because": reasons }),
        Ok(Imported::Already(meta)) => json!({ "input": input, "outcome": "already_there", "import": meta }),
        Ok(Imported::Twice) => json!({ "input": input, "outcome": "given_twice" }),
        Err(error) => json!({ "input": input, "outcome": "failed", "exit_code": error.exit_code(), "error": with_causes(error) }),
    };
    let [received, written, refused] = summary.rows();
    json!({
        "files": summary.files.iter().map(file).collect::<Vec<_>>(),
        "received_count": received,
        "written_count": written,
        "refused_count": refused,
        "exit_code": summary.exit_code(),
    })
}

pub(crate) fn of_imports(imports: &[ImportMeta]) -> Value {
    json!({ "imports": imports })
}

pub(crate) fn of_erased(erased: &Erased) -> Value {
    let Erased { receipt, at_once, waiting } = erased;
    let carried_out: BTreeMap<_, _> = receipt.carried_out.iter().collect();
    json!({
        "user_id": receipt.user_id,
        "partition": receipt.partition,
        "offset": receipt.offset,
        "erase_time": receipt.erase_time,
        "at_once": at_once,
        "waiting": waiting,
        "carried_out": carried_out,
        "receipt": receipt.path().receipt().to_string(),
    })
}

pub(crate) fn of_erasures(erasures: &[Erased]) -> Value {
    json!({ "erasures": erasures.iter().map(of_erased).collect::<Vec<_>>() })
}

pub(crate) fn of_expiry(view: &ViewName, expiry: &Expiry) -> Value {
    let versions: Vec<_> =
        expiry.versions.iter().map(|going| json!({ "version": going.version, "reason": going.reason.to_string() })).collect();
    json!({ "view": view, "versions": versions, "files": expiry.files, "reports": expiry.reports, "definitions": expiry.definitions })
}

pub(crate) fn of_compaction(done: &Compacted) -> Value {
    json!({
        "merged_files": done.before,
        "written_files": done.after,
        "written_bytes": done.bytes,
        "erased_rows": done.erased_rows,
        "moved_files": done.moved,
        "removed_files": done.removed,
    })
}

fn with_causes(error: &batch_layer::import::ImportError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
