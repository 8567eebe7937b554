//! Commands in the copy of the examples: bounded in time, ended with all that they started, judged by what they print.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::tree::Tree;

/// Python packages go to an environment of their own, whose programs come first from then on.
pub(crate) const PYTHON: &str =
    "test -x \"$VENV/bin/python\" || python3 -m venv \"$VENV\"; \"$VENV/bin/python\" -m pip install --quiet --requirement requirements.txt";
/// By the lock file, and nothing else.
pub(crate) const NPM: &str = "npm ci --silent --no-audit --no-fund";
/// What a client may take that has to be compiled first.
const PATIENCE: Duration = Duration::from_secs(300);
/// Lines of an error that are shown.
const SHOWN_LINES: usize = 25;
/// What Maven prints though nobody looks.
const COLOUR_RESET: &str = "\u{1b}[0m";

/// A client of the README's table.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) folder: &'static str,
    pub(crate) programs: &'static [&'static str],
    /// Fails where there is no registry.
    pub(crate) fetch: &'static str,
}

/// What became of a check.
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Outcome {
    /// Whether a command printed what it has to.
    pub(crate) fn of_text(printed: Result<String>, expected: &str) -> Self {
        match printed {
            Ok(printed) if printed == expected => Self::Passed,
            Ok(printed) => Self::Failed(format!("it printed\n{printed}where it has to print\n{expected}")),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// Runs commands in a tree.
pub(crate) struct Commands {
    tree: PathBuf,
    venv: PathBuf,
    path: String,
}

/// A command that goes on until this is dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        end_group(&self.0);
    }
}

impl Commands {
    pub(crate) fn new(tree: &Tree) -> Self {
        let venv = tree.file("venv");
        let path = format!("{}:{}", venv.join("bin").display(), env::var("PATH").unwrap_or_default());
        Self { tree: tree.root(), venv, path }
    }

    /// Fetches what a client builds upon; if that is not to be had, why not.
    pub(crate) async fn fetch(&self, client: &Client) -> Option<String> {
        if let Some(missing) = client.programs.iter().find(|name| program(name).is_none()) {
            return Some(format!("there is no {missing}"));
        }
        let command = format!("cd {} && {}", client.folder, client.fetch);
        let error = self.run(client.name, &command, &[]).await.err()?;
        Some(format!("what it builds upon cannot be had: {error:#}"))
    }

    /// What a command prints; an error if it fails.
    pub(crate) async fn run(&self, name: &str, command: &str, environment: &[(&str, &str)]) -> Result<String> {
        let mut started = self.command(command);
        started.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Running(started.spawn().with_context(|| format!("starting {command}"))?);
        let output = timeout(PATIENCE, output(running)).await;
        let (success, printed, said) = output.with_context(|| format!("{name} did not end within {PATIENCE:?}"))??;
        let printed = printed.replace(COLOUR_RESET, "");
        ensure!(success, "{command}\n{printed}{}", tail(&said));
        Ok(printed)
    }

    /// Starts a command, and waits until it listens on a port.
    pub(crate) async fn serve(&self, command: &str, port: u16) -> Result<Running> {
        let running = Running(self.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > deadline {
                bail!("{command} does not listen on port {port}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(running)
    }

    fn command(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.tree).env("PATH", &self.path).env("VENV", &self.venv);
        shell.env("GOFLAGS", "-mod=mod").env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env_remove("MERGANSER_TOKEN");
        shell.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        shell
    }
}

/// Whether it succeeded, and both of its outputs.
async fn output(mut running: Running) -> Result<(bool, String, String)> {
    let (mut stdout, mut stderr) = (running.0.stdout.take(), running.0.stderr.take());
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (stdout.as_mut().context("it is piped")?, stderr.as_mut().context("it is piped")?);
    tokio::try_join!(stdout.read_to_end(&mut printed), stderr.read_to_end(&mut said))?;
    let status = running.0.wait().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.success(), text(&printed), text(&said)))
}

/// A shell's children are no children of ours: the whole group ends.
fn end_group(child: &Child) {
    if let Some(id) = child.id() {
        // It may have ended by itself.
        let _ended = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).stderr(Stdio::null()).status();
    }
}

/// Where a program of this name is.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
