//! What a server tells over HTTP, read by the plainest means: one connection a question, and OpenMetrics text line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for a path; gives the status and the body.
///
/// # Errors
/// There is no answer, or none in HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, io.read_to_string(&mut answer)).await.context("no answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("a head has a status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Metrics at one moment.
#[derive(Debug, Default)]
pub struct Scrape {
    /// By the name that samples have: a counter's ends in `_total`, a histogram's is without `_bucket`.
    pub types: BTreeMap<String, String>,
    /// By name and labels, as they stand in the text.
    pub samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes a server.
    ///
    /// # Errors
    /// It does not answer, or not with metrics.
    pub async fn of(address: SocketAddr) -> Result<Self> {
        let (status, text) = get(address, "/metrics").await?;
        ensure!(status == 200, "{status}: {text}");
        Self::parse(&text)
    }

    /// Reads OpenMetrics text.
    ///
    /// # Errors
    /// A line that is none, a metric or sample that comes twice, and a sample without a type.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut scrape, mut families) = (Self::default(), BTreeSet::new());
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').context("a type has a name")?;
                let sampled = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                ensure!(scrape.types.insert(sampled, kind.to_owned()).is_none(), "{name} comes twice");
                families.insert(name.to_owned());
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
                let name = sample.split('{').next().unwrap_or_default();
                let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
                let has_type = suffixes.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|family| families.contains(family)));
                ensure!(has_type, "{name} has no type");
                ensure!(scrape.samples.insert(sample.to_owned(), value.parse()?).is_none(), "{sample} comes twice");
            }
        }
        match text.ends_with("# EOF\n") {
            true => Ok(scrape),
            false => bail!("the text has no end"),
        }
    }

    /// The value of a sample, with its labels as they stand in the text.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self, sample: &str) -> Result<f64> {
        self.samples.get(sample).copied().with_context(|| format!("there is no {sample}"))
    }

    /// The sum over all labels of a metric.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(sample, _)| sample.split('{').next() == Some(name)).map(|(_, value)| value).sum()
    }
}
