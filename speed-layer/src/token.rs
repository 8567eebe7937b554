//! `speed-layer token new`: a token for a client, and what the tokens file has to say of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use merganser_proto::auth::{Scope, check_name, check_tokens, new_token};
use storage::machine::{Machine, RealMachine};

/// Whoever can write the tokens file can be anybody, and whoever can read it learns who there is.
const MODE: u32 = 0o600;

#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a new token: it is shown once, the tokens file gets its hash alone.
    New(New),
}

#[derive(Args)]
pub(crate) struct New {
    /// The client's name: letters, digits, and - _ . @
    #[arg(value_parser = name)]
    name: String,
    /// What it may do: ingest, query, admin, internal. Say it again for more.
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// Append the entry to this tokens file, which is made if it is not there, and print the token alone.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

impl Token {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let Self::New(New { name, scopes, into }) = self;
        let mut random = [0; 32];
        random[..16].copy_from_slice(&RealMachine.random().to_be_bytes());
        random[16..].copy_from_slice(&RealMachine.random().to_be_bytes());
        let (token, hash) = new_token(random);
        let entry = entry(&name, &hash, &scopes);
        match into {
            Some(file) => {
                append(&file, &entry)?;
                writeln!(out, "{token}")?;
            }
            None => {
                writeln!(out, "{token}\n\nIt is not shown again. The client sends it as MERGANSER_TOKEN, or from [client] token_file.")?;
                writeln!(out, "Add this to the file that [auth] tokens names:\n\n{entry}")?;
            }
        }
        Ok(())
    }
}

fn entry(name: &str, hash: &str, scopes: &[Scope]) -> String {
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
    format!("[[client]]\nname = \"{name}\"\ntoken_sha256 = \"{hash}\"\nscopes = [{}]\n", scopes.join(", "))
}

/// Appends, unless the file would be none then. A server that reads it meanwhile waits until it reads the same twice.
fn append(path: &PathBuf, entry: &str) -> anyhow::Result<()> {
    let before = if path.exists() { std::fs::read_to_string(path).with_context(|| path.display().to_string())? } else { String::new() };
    let between = if before.is_empty() { "" } else { "\n" };
    if let Err(reason) = check_tokens(&format!("{before}{between}{entry}")) {
        bail!("{}: nothing was added: {reason}", path.display());
    }
    let open = || -> std::io::Result<File> {
        let mut file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        file.write_all(format!("{between}{entry}").as_bytes())?;
        file.sync_all()?;
        Ok(file)
    };
    open().map(drop).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn new(name: &str, into: Option<PathBuf>) -> anyhow::Result<String> {
        let mut out = Vec::new();
        Token::New(New { name: name.to_owned(), scopes: vec![Scope::Ingest, Scope::Query], into }).run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    /// Proves that what is printed is an entry that a server takes, that the entry does not hold the token, and that no two are alike.
    #[test]
    fn printed() {
        let text = new("shop", None).unwrap();
        let (token, entry) = (text.lines().next().unwrap(), &text[text.find("[[client]]").unwrap()..]);
        assert_eq!(check_tokens(entry), Ok(1));
        assert!(token.starts_with("mgs_") && token.len() == 68 && !entry.contains(&token[4..]), "{text}");
        assert_ne!(new("shop", None).unwrap(), text);
    }

    /// Proves that entries come one behind the other into a file of its owner's, and that a name that is there already changes nothing.
    #[test]
    fn into_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        for name in ["shop", "nightly"] {
            assert_eq!(new(name, Some(file.clone())).unwrap().lines().count(), 1);
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(check_tokens(&text), Ok(2));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, MODE);
        let error = new("shop", Some(file.clone())).unwrap_err().to_string();
        assert!(error.contains("two of this name"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}
