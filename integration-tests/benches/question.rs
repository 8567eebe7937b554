//! What a question costs both layers without a network: gRPC messages in and out, both halves read, merged and finished.
//!
//! The realtime view has each user's last day. `get states` is the speed layer's share, for one key and for fifty.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros and a bench's setting up")]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use integration_tests::load::history::{History, name};
use merganser_proto::Transport;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, BatchGetUserStatsRequest, GetStatesRequest, GetUserStatsRequest, Granularity};
use serving_layer::ServingLayer;
use speed_layer::SpeedLayer;
use storage::config::Config;
use storage::machine::RealMachine;
use storage::store::Store;
use tokio::runtime::Runtime;

const USERS: u64 = 20_000;
const DAYS: u64 = 12;

fn questions(c: &mut Criterion) {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let mut config = Config::default();
    config.log.dir = dir.path().join("data");
    config.store.url = dir.path().join("store").display().to_string();
    let (speed, serving) = runtime.block_on(async {
        let store = Store::open(&config.store.url).unwrap();
        let machine = Arc::new(RealMachine);
        let speed = SpeedLayer::open(machine.clone(), config.clone(), store.clone()).await.unwrap();
        let carried = Transport::new(speed.routes().prepare());
        fill(IngestServiceClient::new(carried.clone())).await;
        let serving = ServingLayer::open(machine, &config.serving_layer, store, &config.events, carried.clone()).await.unwrap();
        (carried, (Transport::new(serving.routes().prepare()), serving))
    });
    let mut next = 0;
    let mut user = move || {
        next = (next + 7_919) % USERS;
        name(next)
    };

    let mut group = c.benchmark_group("a question, without a network");
    for (what, granularity) in [("total", Granularity::Total), ("per bucket", Granularity::Bucket)] {
        let client = UserStatsServiceClient::new(serving.0.clone());
        group.bench_function(what, |b| {
            b.to_async(&runtime).iter(|| {
                let request = GetUserStatsRequest { user_id: user(), granularity: granularity.into(), ..Default::default() };
                let mut client = client.clone();
                async move { client.get_user_stats(request).await.unwrap() }
            });
        });
    }
    let client = UserStatsServiceClient::new(serving.0.clone());
    group.bench_function("of 100 users", |b| {
        b.to_async(&runtime).iter(|| {
            let request = BatchGetUserStatsRequest { user_ids: (0..100).map(|_| user()).collect(), ..Default::default() };
            let mut client = client.clone();
            async move { client.batch_get_user_stats(request).await.unwrap() }
        });
    });
    for keys in [1, 50] {
        let client = RealtimeViewServiceClient::new(speed.clone());
        let fingerprint = views::Definition::user_stats(&config.events).fingerprint().to_owned();
        group.bench_function(BenchmarkId::new("get states", keys), |b| {
            b.to_async(&runtime).iter(|| {
                let keys = (0..keys).map(|_| user()).collect();
                let request = GetStatesRequest { fingerprint: fingerprint.clone(), keys, ..Default::default() };
                let mut client = client.clone();
                async move { client.get_states(request).await.unwrap() }
            });
        });
    }
}

/// Every user's events, a day after the other.
async fn fill(mut client: IngestServiceClient<Transport>) {
    let history = History::new(USERS, DAYS).unwrap();
    let events: Vec<_> = (0..DAYS).flat_map(|_| (0..USERS).map(|user| history.next(user)).collect::<Vec<_>>()).collect();
    for append in events.chunks(2_000) {
        client.append_events(AppendEventsRequest { events: append.to_vec() }).await.unwrap();
    }
}

criterion_group!(benches, questions);
criterion_main!(benches);
