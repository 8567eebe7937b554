//! One process of the product: started with a shim or with few file handles, killed, stopped, continued.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

/// Kernel ticks of CPU time a second, on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;
const SHOWN_LINES: usize = 12;

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// Set for it, on top of what this process has.
    pub environment: Vec<(String, String)>,
    /// Its output is appended here.
    pub log: PathBuf,
    /// Where it runs.
    pub folder: &'a Path,
    /// File handles it may have; as many as this process if none.
    pub file_handles: Option<u32>,
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its id, also after its end.
    pub id: u32,
    log: PathBuf,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// It is not there, or its log cannot be opened.
    pub fn start(start: Start<'_>) -> Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(&start.log).with_context(|| start.log.display().to_string())?;
        let mut command = match start.file_handles {
            None => Command::new(start.program),
            Some(handles) => {
                // The shell lowers its own limit and becomes the program, under the same id.
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {handles} && exec \"$0\" \"$@\"")]).arg(start.program);
                shell
            }
        };
        command.args(start.arguments).envs(start.environment).current_dir(start.folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", start.program.display()))?;
        let id = child.id().context("it has just been started")?;
        Ok(Self { child, id, log: start.log })
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.context("waiting for a process")
    }

    /// Ends it at once, by SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("killing a process")
    }

    /// Asks it to end, and kills it if it has not within ten seconds.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal("TERM").await?;
        match tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await {
            Ok(ended) => drop(ended?),
            Err(_) => self.kill().await?,
        }
        Ok(())
    }

    /// Sends it a signal by name, such as `STOP`.
    ///
    /// # Errors
    /// When there is no `kill`, or it fails.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id.to_string()]).stderr(Stdio::null()).status().await?;
        ensure!(status.success(), "kill -{name} {}", self.id);
        Ok(())
    }

    /// CPU time it has used so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let after_name = stat.rsplit_once(')').context("a process has a name")?.1;
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("{}:\n    {}", self.log.display(), lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n    "))
    }
}
