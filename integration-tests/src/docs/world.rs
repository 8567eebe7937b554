//! Where pages are typed: a working copy with the parts that they speak of, and free ports for the servers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// What of the repository the pages speak of.
const COPIED: [&str; 4] = ["merganser.toml", "views", "examples", "deploy"];
/// What others have put there, and a reader of a fresh copy has not.
const LEFT_OUT: [&str; 3] = ["node_modules", "target", "__pycache__"];
/// Packages that the pages install. They are brought once, and stay.
const PACKAGES: [&str; 3] = ["grpcio", "grpcio-reflection", "duckdb"];
/// Settings with an address to listen on, with their defaults. Those of whoever calls there stand in the copy's `merganser.toml`, where
/// a reader changes them.
const ADDRESSES: [(&str, &str); 4] = [
    ("SPEED_LAYER__GRPC_ADDRESS", "127.0.0.1:7401"),
    ("SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:7402"),
    ("SPEED_LAYER__HTTP_ADDRESS", "127.0.0.1:7411"),
    ("SERVING_LAYER__HTTP_ADDRESS", "127.0.0.1:7412"),
];

/// A working copy. Its folder stays when it is dropped, for whoever wants to look, and is emptied for the next page.
#[derive(Debug)]
pub struct World {
    /// The working copy.
    pub folder: PathBuf,
    /// Of the shells.
    pub environment: Vec<(String, String)>,
    /// Default addresses and those that stand in their place.
    ports: BTreeMap<&'static str, String>,
}

impl World {
    /// A fresh copy of the repository at `root` below `place`, with the binaries of `bin`.
    ///
    /// # Errors
    /// What the disk says; no port is free.
    pub fn new(root: &Path, place: &Path, bin: &Path) -> Result<Self> {
        let folder = place.join("merganser");
        clear(&folder)?;
        for name in COPIED {
            copy(&root.join(name), &folder.join(name)).with_context(|| name.to_owned())?;
        }
        fs::create_dir_all(folder.join("target"))?;
        symlink(bin, folder.join("target/debug"))?;
        let (beside, shared) = (place.join("shared"), root.join("../shared"));
        if let (Ok(shared), false) = (shared.canonicalize(), beside.exists()) {
            symlink(shared, &beside)?;
        }
        let mut world = Self { folder, environment: kept_environment(), ports: BTreeMap::new() };
        // All at once, so that no port is given twice.
        let listeners = ADDRESSES.iter().map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        for ((setting, default), listener) in ADDRESSES.into_iter().zip(&listeners) {
            let address = listener.local_addr()?.to_string();
            world.environment.push((format!("MERGANSER_{setting}"), address.clone()));
            world.ports.insert(default, address);
        }
        let settings = world.folder.join("merganser.toml");
        fs::write(&settings, world.with_ports(&fs::read_to_string(&settings)?))?;
        Ok(world)
    }

    /// A command with the addresses that there are in place of the default ones.
    #[must_use]
    pub fn with_ports(&self, command: &str) -> String {
        self.ports.iter().fold(command.to_owned(), |text, (default, address)| text.replace(default, address))
    }

    /// What was printed, as it would be with the default addresses.
    #[must_use]
    pub fn with_default_ports(&self, printed: &str) -> String {
        self.ports.iter().fold(printed.to_owned(), |text, (default, address)| text.replace(address, default))
    }

    /// Whether Python and the packages are there, after an attempt to bring them: in the folder where the pages put them, so that
    /// their own commands find nothing to do.
    #[must_use]
    pub fn has_pypi(&self) -> bool {
        let venv = self.folder.join("target/venv");
        let run = |program: &OsStr, arguments: &[&str]| {
            let mut command = Command::new(program);
            let ended = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            ended.is_ok_and(|status| status.success())
        };
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"].into_iter().chain(PACKAGES).collect::<Vec<_>>();
        run(OsStr::new("python3"), &["-m", "venv", &venv.display().to_string()]) && run(venv.join("bin/python").as_os_str(), &pip)
    }
}

/// What a program needs of its environment, and nothing that settings could come from.
fn kept_environment() -> Vec<(String, String)> {
    let mut kept: Vec<_> = std::env::vars()
        .filter(|(name, _)| !name.starts_with("MERGANSER_") && !["RUST_LOG", "CLICOLOR_FORCE", "BASH_ENV", "ENV"].contains(&name.as_str()))
        .collect();
    kept.push(("PYTHONUTF8".to_owned(), "1".to_owned()));
    kept.push(("PIP_DISABLE_PIP_VERSION_CHECK".to_owned(), "1".to_owned()));
    kept
}

/// Removes all but the packages.
fn clear(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("target") {
            for inner in fs::read_dir(&path)? {
                let inner = inner?.path();
                if !inner.ends_with("venv") {
                    remove(&inner)?;
                }
            }
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let is_folder = fs::symlink_metadata(path)?.is_dir();
    if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }.with_context(|| path.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}
