//! SIGHUP: whoever has changed files says so by it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::warn;

/// Whoever listens is told; from then on the signal does not end the process.
pub(crate) struct Hangup(Option<Signal>);

impl Hangup {
    /// Listens from now on. Inside a runtime.
    pub(crate) fn new() -> Self {
        let heard = signal(SignalKind::hangup());
        Self(heard.inspect_err(|error| warn!(%error, "SIGHUP will not be heard; files are looked at all the same")).ok())
    }

    /// Waits for it, or for so long. Whether it came.
    pub(crate) async fn within(&mut self, longest: Duration) -> bool {
        let told = async {
            match &mut self.0 {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        timeout(longest, told).await.is_ok()
    }
}
