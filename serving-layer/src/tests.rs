//! The real server, asked over gRPC, between a store with published versions and a speed layer that folds a list.

mod answers;
mod as_of;
mod exports;
pub(crate) mod fixture;
mod sharing;
mod swaps;
mod watches;

use std::time::Duration;

use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, GetUserStatsResponse, Provenance, UserStats};
use tonic::transport::Channel;

/// A fresh question about the total of one user.
fn about(user: &str) -> GetUserStatsRequest {
    GetUserStatsRequest { user_id: user.to_owned(), ..GetUserStatsRequest::default() }
}

fn with(consistency: Consistency) -> GetUserStatsRequest {
    GetUserStatsRequest { consistency: consistency.into(), ..about("user-0") }
}

fn everybody() -> BatchGetUserStatsRequest {
    BatchGetUserStatsRequest { user_ids: (0..4).map(|user| format!("user-{user}")).collect(), ..BatchGetUserStatsRequest::default() }
}

fn parts(response: GetUserStatsResponse) -> (UserStats, Provenance) {
    (response.stats.unwrap(), response.provenance.unwrap())
}

/// Polls until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let polled = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polled).await.expect("the condition comes to hold");
}

/// Asks the batch view until `version` answers.
async fn until_version(client: &mut UserStatsServiceClient<Channel>, version: i64) {
    let asked = async {
        loop {
            let (_, provenance) = parts(client.get_user_stats(with(Consistency::BatchOnly)).await.unwrap().into_inner());
            if provenance.version == version {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("the version is swapped in");
}
