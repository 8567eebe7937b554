//! A shell that commands are typed into, one after the other, with everything that it prints.
//!
//! The commands have no terminal on either side: they print no colours and no progress bars, and read nothing. Ctrl-C is the
//! signal that a terminal would send, to the whole group of processes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a command may take: the longest brings Python packages.
const PATIENCE: Duration = Duration::from_secs(180);
/// What has printed all that its page says may take so long to end, where something is typed behind it.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// How long the servers that were started in it may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// Stands around the exit code of a command that has ended, and in no text.
const MARK: char = '\u{1}';
/// Reads the names of files with commands, and runs each in this same shell. Ctrl-C ends a command and not the shell.
const SHELL: &str = r#"trap : INT
exec 2>&1
while IFS= read -r file; do
  . "$file" </dev/null
  printf '\001%d\001' "$?"
done"#;

/// A shell. Dropped, it takes with it whatever was started in it.
#[derive(Debug)]
pub struct Terminal {
    shell: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Where the typed commands are kept.
    folder: std::path::PathBuf,
    typed: usize,
    /// What was printed and not taken yet.
    printed: Vec<u8>,
    /// Whether a command is under way.
    is_running: bool,
}

impl Terminal {
    /// Opens one in `folder`, with nothing but `environment` in its environment. What is typed is kept in `commands`.
    ///
    /// # Errors
    /// There is no bash.
    pub fn open(folder: &Path, commands: &Path, environment: &[(String, String)]) -> Result<Self> {
        std::fs::create_dir_all(commands)?;
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-c", SHELL]).env_clear().envs(environment.iter().cloned()).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0).kill_on_drop(true);
        let mut shell = command.spawn().context("bash, which the commands of the pages are typed into")?;
        let (stdin, stdout) = (shell.stdin.take().expect("stdin is piped"), shell.stdout.take().expect("stdout is piped"));
        Ok(Self { shell, stdin, stdout, folder: commands.to_owned(), typed: 0, printed: Vec::new(), is_running: false })
    }

    /// Types a command.
    ///
    /// # Errors
    /// Another one is under way, or the shell is gone.
    pub async fn type_in(&mut self, command: &str) -> Result<()> {
        if self.is_running && timeout(END_PATIENCE, self.end()).await.is_err() {
            bail!("a command is under way in this terminal; stop it with ^C, or type in another one");
        }
        self.typed += 1;
        let file = self.folder.join(format!("{}.sh", self.typed));
        std::fs::write(&file, format!("{command}\n"))?;
        self.stdin.write_all(format!("{}\n", file.display()).as_bytes()).await.context("the shell is gone")?;
        self.is_running = true;
        Ok(())
    }

    /// Presses Ctrl-C.
    ///
    /// # Errors
    /// The system gives no signals.
    pub fn interrupt(&self) -> Result<()> {
        self.signal("INT")
    }

    /// Waits until the command that is under way has ended, and gives what it printed.
    ///
    /// # Errors
    /// It takes too long; the error has what was printed so far.
    pub async fn end(&mut self) -> Result<String> {
        self.until(|_| false).await
    }

    /// Waits until what was printed is enough, or the command has ended, and gives what was printed.
    ///
    /// # Errors
    /// It takes too long; the error has what was printed so far.
    pub async fn until(&mut self, is_enough: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&self.printed).into_owned();
            if let Some((printed, rest)) = text.split_once(MARK)
                && let Some((_exit_code, rest)) = rest.split_once(MARK)
            {
                self.printed = rest.as_bytes().to_vec();
                self.is_running = false;
                return Ok(printed.to_owned());
            }
            if text.ends_with('\n') && is_enough(&text) {
                self.printed.clear();
                return Ok(text);
            }
            match timeout_at(deadline, self.stdout.read_buf(&mut self.printed)).await {
                Err(_) => bail!("nothing came of it in {PATIENCE:?}; printed so far:\n{text}"),
                Ok(Err(error)) => return Err(error).context("the shell is gone"),
                Ok(Ok(0)) => bail!("the shell ended; printed last:\n{text}"),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Ends the shell and whatever was started in it, as a service manager would.
    pub async fn close(mut self) {
        // A signal that cannot be sent has nobody to go to.
        let _sent = self.signal("TERM");
        let deadline = Instant::now() + STOP_PATIENCE;
        while let Ok(Ok(read)) = timeout_at(deadline, self.stdout.read_buf(&mut self.printed)).await
            && read > 0
        {
            self.printed.clear();
        }
        let _ended = timeout_at(deadline, self.shell.wait()).await;
    }

    fn signal(&self, name: &str) -> Result<()> {
        let Some(group) = self.shell.id() else { return Ok(()) };
        let mut kill = std::process::Command::new("kill");
        kill.args([&format!("-{name}"), "--", &format!("-{group}")]).stderr(Stdio::null()).status().context("kill")?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody may be left over, however the run ends.
        let _sent = self.signal("KILL");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Terminal {
        let path = ("PATH".to_owned(), std::env::var("PATH").unwrap());
        Terminal::open(folder, &folder.join("typed"), &[path]).unwrap()
    }

    /// Proves that what is typed happens in one shell, that both streams come, and that a command reads nothing of what is typed next.
    #[tokio::test]
    async fn one_shell() {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = open(folder.path());
        for (command, printed) in [
            ("x=7; f() { echo \"$x $1\"; }", ""),
            ("cat", ""),
            ("f a; f b >&2", "7 a\n7 b\n"),
            ("cat <<'END'\n$x\nEND", "$x\n"),
            ("false; echo $?", "1\n"),
            ("printf no-end", "no-end"),
        ] {
            terminal.type_in(command).await.unwrap();
            assert_eq!(terminal.end().await.unwrap(), printed, "{command}");
        }
    }

    /// Proves that Ctrl-C ends a command and not the shell, that what is printed meanwhile is seen, and that two commands at once are refused.
    #[tokio::test]
    async fn interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = open(folder.path());
        terminal.type_in("echo begun; tail -f /dev/null").await.unwrap();
        let printed = terminal.until(|text| text.contains("begun")).await.unwrap();
        assert!(printed.starts_with("begun\n"), "{printed}");
        assert!(terminal.type_in("true").await.is_err());
        terminal.interrupt().unwrap();
        terminal.end().await.unwrap();
        terminal.type_in("echo again").await.unwrap();
        assert_eq!(terminal.end().await.unwrap(), "again\n");
        terminal.close().await;
    }
}
