//! A copy of the examples and of the contract, in which clients are installed, generated and run, so that the work tree stays as it is.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

/// What is copied. The depth of each stays what it is, for the clients find the contract by it.
const COPIED: [&str; 4] = ["examples/clients", "integration-tests/grpc-web", "proto/proto", "proto/service_config.json"];
/// What a client leaves where it is run, which is not copied.
const LEFT: [&str; 4] = ["node_modules", "target", "pb", "__pycache__"];
/// Addresses in the README.
const ADDRESSES: (&str, &str) = ("http://127.0.0.1:7401", "http://127.0.0.1:7402");
const PAGE_PORT: &str = "8000";

/// The copy.
pub(crate) struct Tree {
    folder: PathBuf,
    readme: String,
    /// What every client prints.
    pub(crate) expected: String,
}

impl Tree {
    /// Copies what is new under `repository`, into the target folder.
    pub(crate) fn copy(repository: &Path) -> Result<Self> {
        let this = env::current_exe()?;
        let target = this.parent().and_then(Path::parent).context("this program lies in the target folder")?;
        let folder = target.join("test-clients");
        for name in COPIED {
            copy(&repository.join(name), &folder.join("tree").join(name)).with_context(|| format!("copying {name}"))?;
        }
        let readme = fs::read_to_string(repository.join("examples/clients/README.md"))?;
        let (_, rest) = readme.split_once("```text\n").context("the README has no text that clients print")?;
        let expected = rest.split_once("```").context("the README's text has no end")?.0.to_owned();
        Ok(Self { folder, readme, expected })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// A file beside the copy.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command in a client's row of the README's table.
    fn row(&self, name: &str) -> Result<&str> {
        let row = self.readme.lines().find(|line| line.starts_with(&format!("| {name} ")));
        let command = row.and_then(|row| row.split_once(" | `")?.1.split_once("` |"));
        Ok(command.with_context(|| format!("the README's table has no command for {name}"))?.0)
    }

    /// That command with other addresses.
    pub(crate) fn command(&self, name: &str, speed: &str, serving: &str) -> Result<String> {
        let row = self.row(name)?;
        anyhow::ensure!(row.contains(ADDRESSES.0) && row.contains(ADDRESSES.1), "{row} does not name the usual addresses");
        Ok(row.replace(ADDRESSES.0, speed).replace(ADDRESSES.1, serving))
    }

    /// The command that serves the page.
    pub(crate) fn page_command(&self, port: u16) -> Result<String> {
        let row = self.row("Browser")?;
        anyhow::ensure!(row.contains(PAGE_PORT), "{row} does not name the usual port");
        Ok(row.replace(PAGE_PORT, &port.to_string()))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if !LEFT.iter().any(|left| entry.file_name() == *left) {
                copy(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        return Ok(());
    }
    let bytes = fs::read(from)?;
    // What is not new keeps its time, by which builds know that they are done.
    if fs::read(to).ok().as_ref() != Some(&bytes) {
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::write(to, bytes)?;
    }
    Ok(())
}
