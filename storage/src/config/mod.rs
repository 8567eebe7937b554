//! The one settings file, `merganser.toml`, as all three layers read it: file, then environment
//! (`MERGANSER_SECTION__KEY`), then flags. Unknown keys are refused with the nearest known one.

mod auth;
mod console;
mod telemetry;
mod tls;
mod units;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use views::EventSchema;

use crate::store::{Store, StoreError};

pub use auth::{AuthConfig, ClientConfig, MetricsDoor, Secret, TOKEN_VARIABLE};
pub use console::ConsoleConfig;
pub use telemetry::TelemetryConfig;
pub use tls::{ClientCertificates, TlsConfig};
pub use units::{ByteSize, Period};

/// Seconds.
const DAY: u64 = 24 * 3600;
/// Prefix of environment variables that override the file.
const ENV_PREFIX: &str = "MERGANSER_";

/// How logs are written is said on the command line or by this variable, for it is needed before there are settings.
pub const LOG_FORMAT_VARIABLE: &str = "MERGANSER_LOG_FORMAT";

/// Settings that cannot be used: where they come from, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML, or a key or value is not known.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file, or the environment.
        origin: String,
        /// What, where in the text, and the nearest known key.
        message: String,
    },
}

/// Every setting, by section. `merganser.toml` in the repository is its commented reference.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What an event is.
    pub events: EventSchema,
    /// Where views are declared.
    pub views: ViewsConfig,
    /// Where objects are kept.
    pub store: StoreConfig,
    /// How the log is kept.
    pub log: LogConfig,
    /// The speed layer.
    pub speed_layer: SpeedConfig,
    /// The batch layer.
    pub batch_layer: BatchConfig,
    /// How long events are kept.
    pub retention: RetentionConfig,
    /// The serving layer.
    pub serving_layer: ServingConfig,
    /// Its pages for people.
    pub console: ConsoleConfig,
    /// Whom servers let in.
    pub auth: AuthConfig,
    /// With what a program calls a server.
    pub client: ClientConfig,
    /// Connections that nobody else can read.
    pub tls: TlsConfig,
    /// What is told of what they do.
    pub telemetry: TelemetryConfig,
}

/// `[views]`, read by the batch layer only.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewsConfig {
    /// Folder of `<view>.sql` files.
    pub dir: PathBuf,
}

impl Default for ViewsConfig {
    fn default() -> Self {
        Self { dir: "views".into() }
    }
}

/// `[store]`, the object store of the master dataset, the views and the manifests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// A folder or `file:///…`.
    pub url: String,
    /// The same for old segments of the master dataset; empty means they stay.
    pub cold: String,
    /// Segments whose newest event is this old are moved there.
    pub cold_after: Period,
}

impl StoreConfig {
    /// Opens the store, with the cold one beside it if there is one.
    ///
    /// # Errors
    /// An address that leads to no store.
    pub fn open(&self) -> Result<Store, StoreError> {
        let store = Store::open(&self.url)?;
        if self.cold.is_empty() { Ok(store) } else { Ok(store.with_cold(Store::open(&self.cold)?)) }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "data/store".into(), cold: String::new(), cold_after: Period::from_secs(90 * DAY) }
    }
}

/// `[log]`, on the speed layer's own disk.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Folder of the log and the dead letters.
    pub dir: PathBuf,
    /// Fixed when the log is made.
    pub partitions: u32,
    /// A segment that has grown to this is sealed.
    pub segment_bytes: ByteSize,
    /// A segment that has events and is this old is sealed.
    pub segment_age: Period,
    /// How many of a partition's newest records a retry is recognised among.
    pub dedup_window_rows: u32,
    /// Bytes of dead letters; a request whose refused rows would need more is refused with RESOURCE_EXHAUSTED.
    pub dead_letter_bytes: ByteSize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            dir: "data".into(),
            partitions: 4,
            segment_bytes: ByteSize(64 << 20),
            segment_age: Period::from_secs(600),
            dedup_window_rows: 1_000_000,
            dead_letter_bytes: ByteSize(1 << 30),
        }
    }
}

/// `[speed_layer]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeedConfig {
    /// gRPC address to listen on.
    pub grpc_address: String,
    /// HTTP address of `/metrics`, `/healthz` and `/readyz`; empty means there is none.
    pub http_address: String,
    /// Appends that may wait for a partition's writer; more are refused with RESOURCE_EXHAUSTED.
    pub queue_appends: usize,
    /// Bytes of the events that may wait for all writers together; more are refused with RESOURCE_EXHAUSTED.
    pub queue_bytes: ByteSize,
    /// How often the store is asked for a new version.
    pub poll_interval: Period,
    /// Every closed segment of the log and every archived one is read again and compared once in this time; 0 means never.
    pub scrub_interval: Period,
}

impl Default for SpeedConfig {
    fn default() -> Self {
        Self {
            grpc_address: "127.0.0.1:7401".into(),
            http_address: "127.0.0.1:7411".into(),
            queue_appends: 128,
            queue_bytes: ByteSize(64 << 20),
            poll_interval: Period::from_millis(500),
            scrub_interval: Period::from_secs(600),
        }
    }
}

/// `[batch_layer]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// The speed layer to ask for a cut; empty means none is at hand.
    pub speed_layer: String,
    /// Memory of a run; what does not fit is spilled to disk.
    pub memory_limit: ByteSize,
    /// Folder of spilled rows, emptied when the run ends; empty means the system's temporary folder.
    pub spill_dir: PathBuf,
    /// A run that does not renew its lease for so long is taken for dead, and another takes over.
    pub lease_ttl: Period,
    /// Files that no version names, and unfinished ones, are removed when they are older than this.
    pub grace: Period,
    /// Segments whose newest event is this old are merged into large files.
    pub compact_after: Period,
    /// Size that such a file grows to.
    pub compact_bytes: ByteSize,
    /// So many newest versions of a view are kept,
    pub keep_versions: u32,
    /// and those that are younger than this.
    pub keep_versions_for: Period,
    /// Reports of runs, and notes of expired versions, are kept so long.
    pub keep_reports_for: Period,
    /// Rows that imports refused are kept so long; 0 means for ever.
    pub keep_dead_letters_for: Period,
    /// Where runs write their metrics, for the textfile collector of Prometheus' node exporter; empty means nowhere.
    pub metrics_file: PathBuf,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            speed_layer: "http://127.0.0.1:7401".into(),
            memory_limit: ByteSize(1 << 30),
            spill_dir: PathBuf::new(),
            lease_ttl: Period::from_secs(30),
            grace: Period::from_secs(DAY),
            compact_after: Period::from_secs(DAY),
            compact_bytes: ByteSize(256 << 20),
            keep_versions: 7,
            keep_versions_for: Period::from_secs(7 * DAY),
            keep_reports_for: Period::from_secs(90 * DAY),
            keep_dead_letters_for: Period::from_secs(0),
            metrics_file: PathBuf::new(),
        }
    }
}

/// `[retention]`, read by the batch layer only.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Events whose own time is longer ago may go, and every view must have a limit of at most so long; 0 means that none ever goes.
    pub events: Period,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { events: Period::from_secs(0) }
    }
}

/// `[serving_layer]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingConfig {
    /// gRPC address to listen on.
    pub grpc_address: String,
    /// HTTP address of the console, `/metrics`, `/healthz`, `/readyz` and calls from browsers; empty means there is none.
    pub http_address: String,
    /// Origins of pages that may call from a browser beside this server's own, with spaces between them.
    pub web_origins: String,
    /// The speed layer that has the other half.
    pub speed_layer: String,
    /// Memory for decoded blocks of batch views.
    pub cache_bytes: ByteSize,
    /// How often the store is asked for a new version.
    pub poll_interval: Period,
    /// How long an answer may wait for the speed layer.
    pub speed_timeout: Period,
    /// Every file of the version that answers is read again and compared once in this time; 0 means never.
    pub scrub_interval: Period,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            grpc_address: "127.0.0.1:7402".into(),
            http_address: "127.0.0.1:7412".into(),
            web_origins: String::new(),
            speed_layer: "http://127.0.0.1:7401".into(),
            cache_bytes: ByteSize(256 << 20),
            poll_interval: Period::from_millis(500),
            speed_timeout: Period::from_secs(4),
            scrub_interval: Period::from_secs(600),
        }
    }
}

impl Config {
    /// Reads `file`, or `merganser.toml` if there is one, or neither; then the environment.
    pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let default = Path::new("merganser.toml");
        let (origin, text) = match file {
            Some(path) => (path.display().to_string(), read(path)?),
            None if default.exists() => (default.display().to_string(), read(default)?),
            None => ("built-in defaults".to_owned(), String::new()),
        };
        Self::parse(&origin, &text, environment)
    }

    /// As [`Config::load`], from a text.
    pub fn parse(origin: &str, text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { origin: origin.to_owned(), message };
        // Once from the text itself, for errors with their lines; then again with the environment on top.
        toml::from_str::<Self>(text).map_err(|e| invalid(with_nearest(&e)))?;
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| invalid(e.to_string()))?;
        let mut token = None;
        for (name, value) in environment {
            if name == TOKEN_VARIABLE {
                token = Some(value).filter(|value| !value.is_empty()).map(Secret::new);
                continue;
            }
            let Some(path) = name.strip_prefix(ENV_PREFIX).filter(|_| name != LOG_FORMAT_VARIABLE) else { continue };
            set(&mut table, path, &value).map_err(|message| ConfigError::Invalid { origin: name.clone(), message })?;
        }
        let mut config: Self = table.try_into().map_err(|e: toml::de::Error| ConfigError::Invalid {
            origin: format!("{origin} with {ENV_PREFIX}… from the environment"),
            message: with_nearest(&e),
        })?;
        config.client.token = token;
        config.validate().map_err(invalid)?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        self.events.validate().map_err(|e| e.to_string())?;
        self.validate_places()?;
        self.console.validate()?;
        self.auth.validate()?;
        self.tls.validate()?;
        self.telemetry.validate()?;
        let positive = [
            ("speed_layer.poll_interval", self.speed_layer.poll_interval.0.as_millis() as u64),
            ("serving_layer.poll_interval", self.serving_layer.poll_interval.0.as_millis() as u64),
            ("serving_layer.speed_timeout", self.serving_layer.speed_timeout.0.as_millis() as u64),
            ("log.segment_age", self.log.segment_age.0.as_millis() as u64),
            ("log.partitions", u64::from(self.log.partitions)),
            ("log.segment_bytes", self.log.segment_bytes.0),
            ("log.dedup_window_rows", u64::from(self.log.dedup_window_rows)),
            ("log.dead_letter_bytes", self.log.dead_letter_bytes.0),
            ("speed_layer.queue_appends", self.speed_layer.queue_appends as u64),
            ("speed_layer.queue_bytes", self.speed_layer.queue_bytes.0),
            ("batch_layer.memory_limit", self.batch_layer.memory_limit.0),
            ("batch_layer.lease_ttl", self.batch_layer.lease_ttl.0.as_millis() as u64),
            ("batch_layer.grace", self.batch_layer.grace.0.as_millis() as u64),
            ("batch_layer.compact_bytes", self.batch_layer.compact_bytes.0),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("{name} must be at least 1")),
            None if self.log.partitions > 1024 => Err("log.partitions must be at most 1024".to_owned()),
            None if !self.retention.events.0.is_zero() && self.retention.events.0.as_secs() < DAY => {
                Err("retention.events must be at least 1d, for events go by whole days; or \"0s\", and none goes".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Addresses and folders.
    fn validate_places(&self) -> Result<(), String> {
        let listening = [
            ("speed_layer.grpc_address", &self.speed_layer.grpc_address),
            ("serving_layer.grpc_address", &self.serving_layer.grpc_address),
            ("speed_layer.http_address", &self.speed_layer.http_address),
            ("serving_layer.http_address", &self.serving_layer.http_address),
        ];
        let may_be_none = |name: &str, text: &str| text.is_empty() && name.ends_with("http_address");
        let is_none = |name: &str, text: &str| text.parse::<std::net::SocketAddr>().is_err() && !may_be_none(name, text);
        if let Some((name, text)) = listening.iter().find(|(name, text)| is_none(name, text)) {
            return Err(format!(
                "{name} = \"{text}\" is no address to listen on; write an IP address and a port, such as \"127.0.0.1:7401\""
            ));
        }
        let called =
            [("batch_layer.speed_layer", &self.batch_layer.speed_layer), ("serving_layer.speed_layer", &self.serving_layer.speed_layer)];
        let is_url = |text: &str| url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if let Some((name, text)) = called.iter().find(|(name, text)| !(is_url(text) || (text.is_empty() && name.starts_with("batch")))) {
            return Err(format!("{name} = \"{text}\" is no address to call; write http://host:port or https://host:port"));
        }
        let is_origin =
            |text: &str| url::Url::parse(text).is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == text);
        if let Some(text) = self.serving_layer.web_origins.split_whitespace().find(|text| !is_origin(text)) {
            return Err(format!(
                "serving_layer.web_origins: \"{text}\" is no origin; write what a browser sends, scheme, host and port where it is no usual one, such as \"https://stats.example.com\""
            ));
        }
        if self.log.dir.as_os_str().is_empty() {
            return Err("log.dir is empty; name a folder".to_owned());
        }
        if self.store.cold.starts_with("memory:") || (!self.store.cold.is_empty() && self.store.cold == self.store.url) {
            return Err("store.cold: name another folder than that of store.url, or none".to_owned());
        }
        match self.store.url.starts_with("memory:") {
            true => Err("store.url: a store in memory is seen by one process only, and the layers are three; name a folder".to_owned()),
            false => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// `LOG__SEGMENT_BYTES` = `1MiB` sets `segment_bytes` in `[log]`. What reads as a number or a boolean is one.
fn set(table: &mut toml::Table, path: &str, value: &str) -> Result<(), String> {
    let path = path.to_lowercase();
    let mut sections: Vec<&str> = path.split("__").collect();
    let key = sections.pop().expect("a split has at least one piece");
    if sections.is_empty() {
        return Err(format!("names no section; write {ENV_PREFIX}SECTION__KEY, such as {ENV_PREFIX}STORE__URL"));
    }
    let mut section = table;
    for name in sections {
        let entry = section.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section = entry.as_table_mut().ok_or_else(|| format!("{name} is not a section"))?;
    }
    let typed = value.parse::<i64>().map(toml::Value::Integer).or_else(|_| value.parse::<bool>().map(toml::Value::Boolean));
    let is_fraction = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let typed = typed.ok().or_else(|| Some(toml::Value::Float(value.parse().ok().filter(|_| is_fraction)?)));
    section.insert(key.to_owned(), typed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
    Ok(())
}

/// serde's message lists all known keys; the nearest one is what the reader wants.
fn with_nearest(error: &toml::de::Error) -> String {
    let text = error.to_string().trim_end().to_owned();
    let Some(rest) = error.message().strip_prefix("unknown field `") else { return text };
    let Some((wrong, known)) = rest.split_once('`') else { return text };
    let nearest =
        known.split('`').skip(1).step_by(2).max_by(|a, b| strsim::jaro_winkler(wrong, a).total_cmp(&strsim::jaro_winkler(wrong, b)));
    nearest.map_or(text.clone(), |nearest| format!("{text}; did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse("test.toml", text, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    /// Proves that an empty file is the defaults, and that the defaults read back as themselves.
    #[test]
    fn defaults() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(parse(&toml::to_string(&config).unwrap(), &[]).unwrap(), config);
    }

    /// Proves that the commented reference in the repository sets nothing but the defaults, attributes aside.
    #[test]
    fn the_reference_file_is_the_defaults() {
        let reference = parse(include_str!("../../../merganser.toml"), &[]).unwrap();
        let expected = Config { events: reference.events.clone(), ..Config::default() };
        assert_eq!(reference, expected);
    }

    /// Proves that the environment beats the file, in sections made or there.
    #[test]
    fn environment() {
        let config =
            parse("[log]\npartitions = 2", &[("MERGANSER_LOG__PARTITIONS", "3"), ("MERGANSER_STORE__URL", "elsewhere"), ("HOME", "/")])
                .unwrap();
        assert_eq!((config.log.partitions, config.store.url.as_str()), (3, "elsewhere"));
        assert_eq!(parse("", &[("MERGANSER_TELEMETRY__SAMPLE_RATIO", "0.25")]).unwrap().telemetry.sample_ratio, 0.25);
        assert!(parse("", &[("MERGANSER_URL", "x")]).is_err());
        assert_eq!(parse("", &[(LOG_FORMAT_VARIABLE, "json")]).unwrap(), Config::default());
        assert!(parse("", &[("MERGANSER_SPEED_LAYER__HTTP_ADDRESS", "")]).unwrap().speed_layer.http_address.is_empty());
        let origins = "https://stats.example.com http://127.0.0.1:8000";
        assert_eq!(parse("", &[("MERGANSER_SERVING_LAYER__WEB_ORIGINS", origins)]).unwrap().serving_layer.web_origins, origins);
    }

    /// Proves that a token comes from the environment only, is no setting, and is not printed with the settings.
    #[test]
    fn token_of_the_environment() {
        let config = parse("", &[(TOKEN_VARIABLE, "mgs_secret")]).unwrap();
        assert_eq!(config.client.token.as_ref().map(Secret::reveal), Some("mgs_secret"));
        assert!(!format!("{config:?}").contains("mgs_") && !toml::to_string(&config).unwrap().contains("mgs_"));
        assert_eq!(parse("", &[(TOKEN_VARIABLE, "")]).unwrap(), Config::default());
    }

    /// Proves that a misspelt key is refused with the one that was meant, and a bad value with its line.
    #[test]
    fn refusals() {
        let error = parse("[log]\nsegment_byte = \"1MiB\"", &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean `segment_bytes`?") && error.contains("line 2"), "{error}");
        for text in [
            "[log]\npartitions = 0",
            "[log]\nsegment_bytes = \"lots\"",
            "[events]\namount = \"float64\"",
            "[logs]",
            "[log",
            "[store]\nurl = \"memory://\"",
            "[serving_layer]\nspeed_layer = \"localhost:7401\"",
            "[speed_layer]\ngrpc_address = \"localhost\"",
            "[speed_layer]\ngrpc_address = \"\"",
            "[serving_layer]\nhttp_address = \"localhost:7412\"",
            "[serving_layer]\nweb_origins = \"*\"",
            "[serving_layer]\nweb_origins = \"https://good.example https://bad.example/\"",
            "[serving_layer]\nweb_origins = \"https://bad.example:443\"",
            "[serving_layer]\nweb_origins = \"bad.example\"",
            "[serving_layer]\npoll_interval = \"0ms\"",
            "[log]\ndead_letter_bytes = \"0B\"",
            "[console]\nhosts = [\"http://console.example.com\"]",
            "[auth]\njwt_keys = \"keys.json\"",
            "[auth]\njwt_keys = \"keys.json\"\njwt_issuer = \"x\"",
            "[auth]\njwt_audience = \"merganser\"",
            "[auth]\nmetrics = \"query\"",
            "[auth]\nmetrics = \"closed\"",
            "[client]\ntoken = \"mgs_0\"",
            "[retention]\nevents = \"12h\"",
            "[retention]\nevents = \"500ms\"",
            "[telemetry]\notlp_endpoint = \"localhost:4317\"",
            "[telemetry]\nsample_ratio = 1.5",
            "[telemetry]\nsample_ratio = nan",
        ] {
            assert!(parse(text, &[]).is_err(), "{text}");
        }
    }
}
