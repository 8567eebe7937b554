//! The layers as processes: the binaries beside the running one, each with its output in a file of its own.
//!
//! A process that is dropped is killed, by its id, so every way out of a program stops what it started.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long a server may take until it listens: replay of its log included.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a server may take to stop by itself; it gives calls in flight five seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a log that an error shows.
const SHOWN_LINES: usize = 15;

/// Where the binaries are, and what they are told.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    log_dir: PathBuf,
    environment: Vec<(String, String)>,
}

impl Binaries {
    /// Those in the folder of the running program. Their output goes to files in `log_dir`.
    ///
    /// # Errors
    /// When they are not there.
    pub fn beside_this(log_dir: &Path) -> Result<Self> {
        let this = std::env::current_exe().context("where this program is")?;
        let folder = this.parent().context("a program lies in a folder")?.to_owned();
        for name in ["speed-layer", "batch-layer", "serving-layer"] {
            ensure!(
                folder.join(name).exists(),
                "{} is not there; build it with `cargo build --workspace --bins`",
                folder.join(name).display()
            );
        }
        std::fs::create_dir_all(log_dir).with_context(|| log_dir.display().to_string())?;
        Ok(Self { folder, log_dir: log_dir.to_owned(), environment: Vec::new() })
    }

    /// Sets `MERGANSER_…` for every process started from now on.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.environment.push((format!("MERGANSER_{name}"), value.to_string()));
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Result<(Command, PathBuf)> {
        let log = self.log_dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(self.folder.join(name));
        command.args(arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        Ok((command, log))
    }

    /// Starts `<name> serve` and waits until it says where it listens.
    ///
    /// # Errors
    /// When it ends or stays silent; the error shows the end of its log.
    pub async fn serve(&self, name: &'static str) -> Result<Server> {
        let (mut command, log) = self.command(name, &["serve"])?;
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let address = match timeout(START_PATIENCE, address(&mut lines)).await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => bail!("{name} did not start: {error}\n{}", tail(&log)),
            Err(_) => bail!("{name} did not say within {START_PATIENCE:?} where it listens\n{}", tail(&log)),
        };
        // Whatever it prints later goes to its log, so that the pipe never fills.
        let copy = File::options().append(true).open(&log)?;
        tokio::spawn(drain(lines, copy));
        Ok(Server { name, address, log, child })
    }

    /// Runs `<name> <arguments>` to its end and gives what it printed.
    ///
    /// # Errors
    /// When it fails or takes longer than `patience`; the error shows the end of its log.
    pub async fn run(&self, name: &str, arguments: &[&str], patience: Duration) -> Result<String> {
        let (mut command, log) = self.command(name, arguments)?;
        let what = format!("{name} {}", arguments.first().copied().unwrap_or_default());
        let child = command.spawn().with_context(|| format!("starting {what}"))?;
        let Ok(output) = timeout(patience, child.wait_with_output()).await else {
            bail!("{what} did not end within {patience:?}\n{}", tail(&log));
        };
        let output = output.with_context(|| what.clone())?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{what} ended with {}\n{printed}{}", output.status, tail(&log));
        Ok(printed)
    }
}

/// The folder of the programs, which are built: a test alone does not build them.
///
/// # Errors
/// They cannot be built.
pub fn built() -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let folder = this.ancestors().nth(2).context("a test lies in a folder of its profile's")?.to_owned();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo).args(["build", "--workspace", "--bins", "--quiet"]).status()?;
    ensure!(built.success(), "cargo build --workspace --bins");
    Ok(folder)
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    /// Such as `http://127.0.0.1:40123`.
    pub address: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    /// The name and the end of the log.
    #[must_use]
    pub fn last_words(&self) -> String {
        tail(&self.log)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.with_context(|| self.name.to_owned())
    }

    /// Asks it to stop, as Ctrl-C in the terminal has done already, and kills it if it does not.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(id) = self.child.id() {
            // Where there is no `kill`, the patience below ends it.
            let _asked = Command::new("kill").args(["-TERM", &id.to_string()]).stderr(Stdio::null()).status().await;
        }
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await.with_context(|| self.name.to_owned())?;
        }
        Ok(())
    }
}

/// Waits for Ctrl-C, or the signal that asks a process to end.
///
/// # Errors
/// When the system gives no signals.
pub async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    while let Some(line) = lines.next_line().await? {
        if let Some((_, address)) = line.split_once("listening on ") {
            return Ok(address.trim().to_owned());
        }
    }
    bail!("it ended before it listened")
}

async fn drain(mut lines: Lines<BufReader<ChildStdout>>, mut log: File) {
    while let Ok(Some(line)) = lines.next_line().await {
        // A log that cannot be written must not stop a server.
        let _written = writeln!(log, "{line}");
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    format!("last lines of {name}:\n    {}", if shown.is_empty() { "(none)".to_owned() } else { shown.join("\n    ") })
}
