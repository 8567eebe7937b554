use std::time::Duration;

use integration_tests::cluster::Cluster;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Consistency, GetUserStatsRequest};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::victim::{Over, Victim, channel, event};

const PATIENCE: Duration = Duration::from_secs(20);

async fn until_health(server: Channel, service: &str, wanted: ServingStatus) {
    let mut health = HealthClient::new(server);
    let polled = async {
        loop {
            let question = HealthCheckRequest { service: service.to_owned() };
            if health.check(question).await.is_ok_and(|answer| answer.into_inner().status() == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("the health of {service} does not come to be {wanted:?}"));
}

/// Proves that the serving layer says NOT_SERVING while it cannot reach the speed layer, though it answers who asks for its best
/// effort, and SERVING again afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn speed_layer_out_of_reach() {
    const STATS: &str = "merganser.v1.UserStatsService";
    let mut cluster = Cluster::start(true, |_| {}).await.unwrap();
    let serving = cluster.serving_address();
    until_health(channel(serving), STATS, ServingStatus::Serving).await;
    cluster.stop_speed().await.unwrap();
    until_health(channel(serving), STATS, ServingStatus::NotServing).await;
    let question = |consistency: Consistency| GetUserStatsRequest {
        user_id: "u".into(),
        consistency: consistency.into(),
        ..GetUserStatsRequest::default()
    };
    let answer = cluster.stats.get_user_stats(question(Consistency::BestEffort)).await.unwrap().into_inner();
    assert!(!answer.provenance.unwrap().complete);
    assert_eq!(cluster.stats.get_user_stats(question(Consistency::Fresh)).await.unwrap_err().code(), Code::Unavailable);
    cluster.start_speed().await.unwrap();
    until_health(channel(serving), STATS, ServingStatus::Serving).await;
    cluster.stop().await.unwrap();
}

over_both!(poisoned_log);

/// Proves that a log which a failed write has poisoned turns the health of ingest, and no other service's, to NOT_SERVING.
async fn poisoned_log(over: Over) {
    // No file may grow beyond 64 KiB or so; the signal that says so is ignored, so that the write fails instead.
    let victim = Victim::start("trap '' XFSZ\nulimit -f 128", over).await;
    until_health(victim.channel(victim.speed), "merganser.v1.IngestService", ServingStatus::Serving).await;
    let mut ingest = IngestServiceClient::new(victim.channel(victim.speed));
    let mut failed = None;
    for i in 0..2000 {
        let events = vec![event(&format!("{i}-{}", "x".repeat(100)), "user"); 1];
        if let Err(status) = ingest.append_events(AppendEventsRequest { events }).await {
            failed = Some(status.code());
            break;
        }
    }
    assert!(matches!(failed, Some(Code::Internal | Code::Unavailable)), "{failed:?}");
    until_health(victim.channel(victim.speed), "merganser.v1.IngestService", ServingStatus::NotServing).await;
    until_health(victim.channel(victim.speed), "merganser.v1.RealtimeViewService", ServingStatus::Serving).await;
}
