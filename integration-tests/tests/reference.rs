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

/// Proves that no link from one page to another leads nowhere: to a file that is not there, or to a heading that is called otherwise.
#[test]
fn links() {
    let (mut pages, mut broken) = (vec![], vec![]);
    for folder in ["", "docs", "docs/decisions"] {
        let files = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        for link in links_of(&std::fs::read_to_string(root().join(&page)).unwrap()) {
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { root().join(&page) } else { root().join(&page).parent().unwrap().join(path) };
            let is_there = if heading.is_empty() {
                target.exists()
            } else {
                std::fs::read_to_string(&target).is_ok_and(|text| headings_of(&text).contains(heading))
            };
            if !is_there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The text outside of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Where the links lead that stay in the repository.
fn links_of(text: &str) -> Vec<String> {
    let of_line = |line: &str| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect::<Vec<_>>();
    prose(text).flat_map(of_line).filter(|link| !link.starts_with("http") && !link.contains(' ')).collect()
}

/// The names of headings, as links have them.
fn headings_of(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
        line.trim_start_matches('#').trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")
    };
    prose(text).filter(|line| line.starts_with('#')).map(name).collect()
}
