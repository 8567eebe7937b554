//! `serving-layer get --watch`: the answer now, and again whenever it has changed.

use std::time::Duration;

use anyhow::{Context, bail};
use merganser_proto::Transport;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{GetUserStatsRequest, GetUserStatsResponse, WatchUserStatsRequest, WatchUserStatsResponse};
use tokio::time::timeout;

use super::{Get, Unanswered, print, request};

/// The contract's: a stream that is silent for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Prints answers until the stream ends, which is an error: a watch has no end of its own.
pub(super) async fn run(get: &Get, server: Transport) -> anyhow::Result<()> {
    let mut client = UserStatsServiceClient::new(server);
    let mut stream = client.watch_user_stats(watching(get)?).await.map_err(Unanswered::Refused)?.into_inner();
    loop {
        let said = timeout(DEAD_AFTER, stream.message()).await;
        let Ok(said) = said else { bail!("the server has been silent for {} s", DEAD_AFTER.as_secs()) };
        let WatchUserStatsResponse { stats, provenance, explanation, unchanged } =
            said.map_err(Unanswered::Refused)?.context("the server ended the stream without a word")?;
        if !unchanged {
            print(get.printed.output, &GetUserStatsResponse { stats, provenance, explanation })?;
        }
    }
}

fn watching(get: &Get) -> anyhow::Result<WatchUserStatsRequest> {
    let GetUserStatsRequest { user_id, start_time, end_time, granularity, consistency, min_position, explain, version } = request(get);
    let min_interval = get.interval.map(|interval| prost_types::Duration::try_from(interval.0)).transpose()?;
    Ok(WatchUserStatsRequest { user_id, start_time, end_time, granularity, consistency, min_position, explain, version, min_interval })
}
