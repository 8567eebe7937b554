//! `[telemetry]`: where traces go.

use serde::{Deserialize, Serialize};
use url::Url;

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The OTLP collector of traces, by gRPC; empty means that nobody collects any.
    pub otlp_endpoint: String,
    /// The part of the traces that begin here that is collected, from 0 to 1. A caller that says what becomes of its trace is heeded.
    pub sample_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 1.0 }
    }
}

impl TelemetryConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        let is_url = |text: &str| Url::parse(text).is_ok_and(|url| url.scheme() == "http" && url.has_host());
        if !self.otlp_endpoint.is_empty() && !is_url(&self.otlp_endpoint) {
            return Err(format!("telemetry.otlp_endpoint = \"{}\" is no address to call; write http://host:4317", self.otlp_endpoint));
        }
        match (0.0..=1.0).contains(&self.sample_ratio) {
            true => Ok(()),
            false => Err(format!("telemetry.sample_ratio = {} is no part of the traces; write a number from 0 to 1", self.sample_ratio)),
        }
    }
}
