//! Steps of the demo: each says what it does, how long it took, and gives up in time.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

/// Runs one step. A step that fails or takes longer than `patience` ends the demo with its name.
pub(crate) async fn step<T>(what: &str, patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    print!("{what:<62}");
    // Without a terminal there is nobody to see the line grow.
    let _shown = stdout().flush();
    let started = Instant::now();
    match tokio::time::timeout(patience, work).await {
        Ok(Ok(value)) => {
            println!("{:>7.1} s", started.elapsed().as_secs_f64());
            Ok(value)
        }
        Ok(Err(error)) => {
            println!(" FAILED");
            Err(error).context(format!("the step \"{what}\" failed"))
        }
        Err(_) => {
            println!(" FAILED");
            bail!("the step \"{what}\" did not end within {patience:?}")
        }
    }
}

/// Runs what blocks off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a blocking part of the step")?
}
