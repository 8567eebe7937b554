//! That `docs/reference.md` says what the code does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use integration_tests::docs::reference::{PAGE, made};
use integration_tests::processes::built;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Proves that the page names every setting, sub-command and option as they are now.
#[test]
fn up_to_date() {
    let bin = built().unwrap();
    let (page, made) = (std::fs::read_to_string(root().join(PAGE)).unwrap(), made(&root(), &bin).unwrap());
    let differing = page.lines().zip(made.lines()).find(|(is, should)| is != should);
    assert!(page == made, "{PAGE} is stale, write it anew with `make reference`; first difference: {differing:#?}");
}

/// Proves that the page names every variable that the programs ask the environment for, and no exit code is missing from it.
#[test]
fn variables() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let mut asked = BTreeSet::new();
    for folder in ["cli", "proto", "storage", "speed-layer", "batch-layer", "serving-layer"] {
        collect(&root().join(folder).join("src"), &mut asked);
    }
    assert!(asked.contains("MERGANSER_LOG_FORMAT"), "{asked:?}");
    let missing: Vec<_> = asked.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{PAGE} does not name {missing:?}");
}

/// Names in calls for a variable, and in constants that are called after one.
fn collect(folder: &Path, asked: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, asked);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for begin in ["env::var(\"", "env::var_os(\"", "VARIABLE: &str = \""] {
            asked.extend(code.split(begin).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
}
