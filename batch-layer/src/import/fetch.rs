//! Inputs that a URL names: fetched whole before they are read, for an import reads a file more than once.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use storage::input::{EventFile, Format};
use tempfile::TempDir;
use ureq::http::Uri;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::{ImportError, ImportOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head of the answer is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Until all of it is: a server that falls silent must not hold up the files behind it for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest name that a fetched file gets.
const MAX_NAME_BYTES: usize = 200;

/// A file at hand.
pub(super) struct Fetched {
    pub(super) file: EventFile,
    /// Where it lies if it was fetched; goes with it.
    _folder: Option<TempDir>,
}

impl Fetched {
    pub(super) fn local(file: EventFile) -> Self {
        Self { file, _folder: None }
    }

    /// What `url` gives, in a file of its name. Blocks.
    ///
    /// # Errors
    /// [`ImportError::Fetch`] if it cannot be had whole; the name ends in no format that is known.
    pub(super) fn get(url: &str, options: &ImportOptions) -> Result<Self, ImportError> {
        let refuse = |reason: String| ImportError::Fetch { url: shown(url), reason };
        let here = |e: io::Error| refuse(format!("what it gives cannot be kept meanwhile: {e}"));
        let folder = match &options.spill_dir {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| TempDir::new_in(dir)),
            None => TempDir::new(),
        };
        let folder = folder.map_err(here)?;
        let path = folder.path().join(name(url));
        // Looked at before anything is fetched: an ending that says nothing would be found out too late.
        let mut file = File::create(&path).map_err(here)?;
        EventFile::find_as(&path, options.format)?;
        let mut config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .tls_config(TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider())).build());
        if is_loopback(url) {
            config = config.proxy(None);
        }
        let agent: Agent = config.build().into();
        let answer = agent.get(url).call().map_err(|e| refuse(e.to_string()))?;
        copy(answer.into_body(), &mut file).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { file: EventFile::find_as(&path, options.format)?, _folder: Some(folder) })
    }
}

fn copy(body: Body, file: &mut File) -> io::Result<()> {
    let announced = body.content_length();
    let copied = io::copy(&mut body.into_with_config().limit(u64::MAX).reader(), file)?;
    file.flush()?;
    match announced.filter(|announced| *announced != copied) {
        None => Ok(()),
        Some(announced) => Err(io::Error::other(format!("it ended after {copied} of {announced} bytes; try again"))),
    }
}

/// Whether it means this machine, which no proxy of the environment knows.
fn is_loopback(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An input as it is shown: a URL without what may be a secret, its query and its user.
pub(super) fn shown(input: &str) -> String {
    let Some((scheme, rest)) = input.split_once("://") else { return input.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The last part of the path, as a safe name: its ending says what the file is.
fn name(url: &str) -> String {
    let shown = shown(url);
    let path = shown.split_once("://").map_or("", |(_, rest)| rest);
    let last = path.split_once('/').map_or("", |(_, path)| path).rsplit('/').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let name: String = last.chars().map(safe).collect();
    let name = &name[name.len().saturating_sub(MAX_NAME_BYTES)..];
    if Path::new(name).file_name().is_some() { name.to_owned() } else { "input".to_owned() }
}

/// What an input is, before it is at hand.
pub(super) enum Found {
    Here(EventFile),
    At(String),
}

impl Found {
    /// Reads an address.
    ///
    /// # Errors
    /// It is none, or leads to no file.
    pub(super) fn parse(input: &str, format: Option<Format>) -> Result<Self, ImportError> {
        let refuse = |reason: &str| ImportError::Address { input: shown(input), reason: reason.to_owned() };
        let path = match input.split_once("://") {
            None => input,
            Some(("file", path)) if path.starts_with('/') && !path.contains('%') => path,
            Some(("file", _)) => return Err(refuse("write file:// and an absolute path without %, or the path alone")),
            Some(("http" | "https", _)) => return Ok(Self::At(input.to_owned())),
            Some(_) => return Err(refuse("write a path, file:///…, http://… or https://…")),
        };
        Ok(Self::Here(EventFile::find_as(Path::new(path), format)?))
    }

    /// Its length, as far as it is known.
    pub(super) fn size_bytes(&self) -> u64 {
        if let Self::Here(file) = self { file.size_bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a file keeps the name of its URL as far as a name is safe, and that secrets are not shown.
    #[test]
    fn names() {
        for (url, expected) in [
            ("https://host/a/2010-12-01.csv.gz?token=x/y.parquet#z", "2010-12-01.csv.gz"),
            ("http://host/a%20b.csv", "a_20b.csv"),
            ("http://host/..", "input"),
            ("http://host/", "input"),
            ("http://host", "input"),
            ("http://host/é.jsonl", "_.jsonl"),
        ] {
            assert_eq!(name(url), expected, "{url}");
        }
        for (input, expected) in [
            ("https://host/a?token=x", "https://host/a"),
            ("https://user:word@host:1/a#x", "https://host:1/a"),
            ("https://user@host?x", "https://host"),
            ("a/b?c.csv", "a/b?c.csv"),
        ] {
            assert_eq!(shown(input), expected);
        }
        for (url, expected) in
            [("http://127.0.0.1:9/a", true), ("http://[::1]/a", true), ("http://localhost/a", true), ("http://127.0.0.1.org/", false)]
        {
            assert_eq!(is_loopback(url), expected, "{url}");
        }
    }
}
