//! The library between a server and the C library: built when it is needed, told by environment variables what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::points::Point;

const SOURCE: &str = include_str!("../../shim/shim.c");

/// Compiles the library into `folder`.
///
/// # Errors
/// There is no C compiler, or it refuses.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SOURCE).with_context(|| source.display().to_string())?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).args(["-ldl", "-lpthread"]);
    let output = compiler.output().context("the C compiler cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(library)
}

/// A call that fails.
#[derive(Clone, Debug)]
pub struct Failing {
    /// Such as `fdatasync`.
    pub call: &'static str,
    /// Such as `log-segment`.
    pub class: &'static str,
    /// The first call that fails, from 1.
    pub from: u32,
    /// The error, such as 28 for ENOSPC.
    pub errno: i32,
    /// Whether all later ones fail as well.
    pub sticky: bool,
    /// It fails only while this file is there.
    pub only_while: Option<PathBuf>,
}

/// What one process is told.
#[derive(Clone, Debug, Default)]
pub struct Shim {
    /// Write down every change here.
    pub trace: Option<PathBuf>,
    /// Die at the n-th passing of a point, leaving this file.
    pub kill: Option<(Point, u32, PathBuf)>,
    /// Let a call fail.
    pub fail: Option<Failing>,
}

impl Shim {
    /// The variables for a process whose files are below `folder`; none where there is nothing to do.
    #[must_use]
    pub fn environment(&self, library: &Path, folder: &Path) -> Vec<(&'static str, String)> {
        let mut set = Vec::new();
        let text = |path: &Path| path.display().to_string();
        set.extend(self.trace.as_ref().map(|trace| ("SHIM_TRACE", text(trace))));
        if let Some((point, nth, note)) = &self.kill {
            set.push(("SHIM_KILL", format!("{point}:{nth}")));
            set.push(("SHIM_NOTE", text(note)));
        }
        if let Some(Failing { call, class, from, errno, sticky, only_while }) = &self.fail {
            set.push(("SHIM_FAIL", format!("{call}:{class}:{from}:{errno}{}", if *sticky { ":sticky" } else { "" })));
            set.extend(only_while.as_ref().map(|path| ("SHIM_WHILE", text(path))));
        }
        if !set.is_empty() {
            set.push(("SHIM_DIR", text(folder)));
            set.push(("LD_PRELOAD", text(library)));
        }
        set
    }
}
