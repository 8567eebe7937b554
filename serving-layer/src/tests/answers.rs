use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, Granularity, ListViewsRequest, PartitionOffset};
use prost_types::Timestamp;
use tonic::Code;
use tonic_types::StatusExt;

use super::fixture::{DAY_US, Fixture, LOG_ID, event};
use super::{about, everybody, parts, with};

fn at(time_us: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: time_us.div_euclid(1_000_000), nanos: (time_us.rem_euclid(1_000_000) * 1000) as i32 })
}

fn place(offset: i64) -> Vec<PartitionOffset> {
    vec![PartitionOffset { partition: 0, offset }]
}

/// How many of the events `[start, end)` are `user`'s and happened on one of `days`.
fn count(user: &str, start: i64, end: i64, days: std::ops::Range<i64>) -> i64 {
    let counts = |e: &views::Event| e.user_id == user && days.contains(&(e.event_time_us / DAY_US));
    (start..end).map(event).filter(counts).count() as i64
}

/// Proves that an answer is the events of both halves, each once, and that provenance and explanation say which came from where.
#[tokio::test]
async fn halves_are_merged() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let request = GetUserStatsRequest { explain: true, ..about("user-1") };
    let response = fixture.client.get_user_stats(request).await.unwrap().into_inner();
    let halves = response.explanation.clone().unwrap();
    let (batch, speed) = (halves.batch.unwrap(), halves.speed.unwrap());
    let (stats, provenance) = parts(response);

    let (below, above) = (count("user-1", 0, 60, 0..5), count("user-1", 60, 100, 0..5));
    assert!(below > 0 && above > 0, "the test asks for both halves");
    assert_eq!((stats.found, stats.event_count), (true, below + above));
    let expected_revenue = views::decimal::format(15_000 * i128::from(below + above), 4);
    assert_eq!(stats.revenue, expected_revenue);
    let times = || (0..100).map(event).filter(|e| e.user_id == "user-1").map(|e| e.event_time_us);
    assert_eq!((stats.first_event_time, stats.last_event_time), (at(times().min().unwrap()), at(times().max().unwrap())));
    assert!(stats.measures.is_empty() && stats.buckets.is_empty(), "{stats:?}");

    assert_eq!((batch.event_count, speed.event_count), (below, above));
    assert_eq!((provenance.batch_event_count, provenance.speed_event_count), (below, above));
    assert_eq!((provenance.version, provenance.complete), (1, true));
    assert_eq!((provenance.boundary, provenance.head), (place(60), place(100)));
    assert_eq!(provenance.computed_time.unwrap().seconds, 1_795_226_400);
}

/// Proves that an explanation names what was read and what each slice adds, and says so where the speed layer does not tell slices; and
/// that slices which leave a gap, go beyond the head or have other rows than were sent are an error.
#[tokio::test]
async fn explained_by_slices() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let request = || GetUserStatsRequest { explain: true, ..about("user-1") };
    let explanation = fixture.client.get_user_stats(request()).await.unwrap().into_inner().explanation.unwrap();
    assert!(explanation.slices.is_empty() && explanation.slices_missing_reason.contains("older"), "{explanation:?}");
    assert_eq!((explanation.run_id.as_str(), explanation.parent_version, explanation.files.len()), ("run-1", 0, 1));
    assert_eq!((explanation.batch_row_count, explanation.batch_block_count), (5, 1), "one row for each of five days");

    // The fake's states are one row for each day.
    fixture.speed().slices = vec![(60, 80, 2), (80, 80, 0), (80, 100, 3)];
    let answer = fixture.client.get_user_stats(request()).await.unwrap().into_inner();
    let explanation = answer.explanation.unwrap();
    let rows: Vec<i64> = explanation.slices.iter().map(|slice| slice.row_count).collect();
    let events: i64 = explanation.slices.iter().map(|slice| slice.event_count).sum();
    assert_eq!((rows, events, explanation.slices_missing_reason.as_str()), (vec![2, 0, 3], count("user-1", 60, 100, 0..5), ""));
    for wrong in [
        vec![(60, 80, 2), (81, 100, 3)],
        vec![(59, 100, 5)],
        vec![(60, 101, 5)],
        vec![(60, 100, 4)],
        vec![(60, 100, 6)],
        vec![(60, 100, -1)],
    ] {
        fixture.speed().slices = wrong.clone();
        let refused = fixture.client.get_user_stats(request()).await.unwrap_err();
        assert_eq!(refused.get_details_error_info().unwrap().reason, "SPEED_LAYER_BROKEN", "{wrong:?}");
    }
    assert!(fixture.client.get_user_stats(about("user-1")).await.is_ok(), "who does not ask for slices is not told them");
}

/// Proves that measures of every kind merge and arrive by name, also where the view counts nothing itself.
#[tokio::test]
async fn other_measures() {
    let sql = "SELECT user_id, date_trunc('day', event_time) AS bucket, avg(amount) AS mean, count(DISTINCT event_id) AS ids \
               FROM events GROUP BY user_id, date_trunc('day', event_time)";
    let mut fixture = Fixture::with(sql, &[60], 100, std::time::Duration::from_secs(3600)).await;
    let (stats, _) = parts(fixture.client.get_user_stats(about("user-2")).await.unwrap().into_inner());
    let events = count("user-2", 0, 100, 0..5);
    let kind = |name: &str| stats.measures[name].kind.clone().unwrap();
    assert_eq!(kind("ids"), merganser_proto::v1::value::Kind::IntValue(events));
    assert_eq!(kind("mean"), merganser_proto::v1::value::Kind::DecimalValue("1.5".into()));
    assert_eq!((stats.event_count, stats.revenue.as_str()), (events, ""));
}

/// Proves that a half-open range on edges takes its buckets from both halves, oldest first, and nothing beside them.
#[tokio::test]
async fn ranges_and_buckets() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let request = GetUserStatsRequest {
        start_time: at(DAY_US),
        end_time: at(3 * DAY_US),
        granularity: Granularity::Bucket.into(),
        explain: true,
        ..about("user-0")
    };
    let response = fixture.client.get_user_stats(request).await.unwrap().into_inner();
    let halves = response.explanation.clone().unwrap();
    let (stats, provenance) = parts(response);
    assert_eq!(stats.event_count, count("user-0", 0, 100, 1..3));
    let buckets: Vec<_> = stats.buckets.iter().map(|bucket| (bucket.start_time, bucket.event_count)).collect();
    let expected = |start, end| [1, 2].map(|day| (at(day * DAY_US), count("user-0", start, end, day..day + 1))).to_vec();
    assert_eq!(buckets, expected(0, 100));
    assert!(stats.buckets[0].measures.contains_key("first_event_time"));
    let of_batch: Vec<_> = halves.batch.unwrap().buckets.iter().map(|bucket| (bucket.start_time, bucket.event_count)).collect();
    assert_eq!(of_batch, expected(0, 60));
    assert_eq!(provenance.batch_event_count, count("user-0", 0, 60, 1..3));
    assert_eq!(provenance.speed_event_count, count("user-0", 60, 100, 1..3));
}

/// Proves that a question that cannot be meant so is refused with the field and what to write instead.
#[tokio::test]
async fn refusals() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let off_edge = GetUserStatsRequest { start_time: at(DAY_US + 1), ..about("user-0") };
    let empty = GetUserStatsRequest { start_time: at(DAY_US), end_time: at(DAY_US), ..about("user-0") };
    let early = GetUserStatsRequest { start_time: at(-100 * 366 * DAY_US), ..about("user-0") };
    let too_fine = GetUserStatsRequest { end_time: Some(Timestamp { seconds: 86_400, nanos: 1 }), ..about("user-0") };
    let malformed = GetUserStatsRequest { min_position: "a1b2:0=x".into(), ..about("user-0") };
    let unknown_enum = GetUserStatsRequest { consistency: 9, ..about("user-0") };
    for (request, field, says) in [
        (off_edge, "start_time", "nearest edges are 1970-01-02T00:00:00Z and 1970-01-03T00:00:00Z"),
        (empty, "end_time", "half-open"),
        (early, "start_time", "1900 to 2200"),
        (too_fine, "end_time", "finer than a microsecond"),
        (malformed, "min_position", "ingest response"),
        (unknown_enum, "consistency", "9"),
        (about(""), "user_id", "empty"),
        (about(&"x".repeat(257)), "user_id", "257 bytes"),
    ] {
        let status = fixture.client.get_user_stats(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let violation = &status.get_details_bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field);
        assert!(violation.description.contains(says), "{violation:?}");
        assert_eq!(status.get_details_error_info().unwrap().domain, "merganser");
    }
    let crowd = BatchGetUserStatsRequest { user_ids: vec!["u".into(); 1001], ..Default::default() };
    assert_eq!(fixture.client.batch_get_user_stats(crowd).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(fixture.speed().questions, 0, "what is refused is not asked");
}

/// Proves that unknown users are answered, in the order of the request, and that a user named twice is answered twice and
/// counted once.
#[tokio::test]
async fn batch_get_and_unknown_users() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let user_ids = ["user-2", "nobody", "user-0", "user-2"].map(str::to_owned).to_vec();
    let request = BatchGetUserStatsRequest { user_ids: user_ids.clone(), ..Default::default() };
    let response = fixture.client.batch_get_user_stats(request).await.unwrap().into_inner();
    assert_eq!(response.stats.iter().map(|stats| stats.user_id.clone()).collect::<Vec<_>>(), user_ids);
    let unknown = &response.stats[1];
    assert_eq!((unknown.found, unknown.event_count, unknown.revenue.as_str(), unknown.measures.len()), (false, 0, "", 0));
    assert_eq!(response.stats[0], response.stats[3]);
    let provenance = response.provenance.unwrap();
    assert_eq!(provenance.batch_event_count, count("user-2", 0, 60, 0..5) + count("user-0", 0, 60, 0..5));
    assert_eq!(fixture.speed().questions, 1, "all keys of a request are asked for in one call");
}

/// Proves that before the first publish the built-in view answers from the speed layer alone.
#[tokio::test]
async fn nothing_published() {
    let mut fixture = Fixture::new(&[], 100).await;
    let response = fixture.client.batch_get_user_stats(everybody()).await.unwrap().into_inner();
    assert_eq!(response.stats[1].event_count, count("user-1", 0, 100, 0..5));
    let provenance = response.provenance.unwrap();
    assert_eq!((provenance.version, provenance.boundary.len(), provenance.head), (0, 0, place(100)));
    assert_eq!(provenance.computed_time, None);
    let batch_only = fixture.client.get_user_stats(with(Consistency::BatchOnly)).await.unwrap().into_inner();
    assert!(!parts(batch_only).0.found);
    let elsewhere = GetUserStatsRequest { min_position: "ffff:0=1".into(), ..about("user-0") };
    assert_eq!(fixture.client.get_user_stats(elsewhere).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// Proves what each consistency makes of a speed layer that is down: an error, an answer that says it is incomplete, no difference.
#[tokio::test]
async fn speed_layer_down() {
    let mut fixture = Fixture::new(&[60], 100).await;
    fixture.speed().down = true;
    let below = count("user-0", 0, 60, 0..5);

    let status = fixture.client.get_user_stats(with(Consistency::Fresh)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(status.get_details_error_info().unwrap().reason, "SPEED_LAYER_UNAVAILABLE");

    let response = fixture.client.get_user_stats(with(Consistency::BestEffort)).await.unwrap().into_inner();
    let (stats, provenance) = parts(response);
    assert_eq!((stats.event_count, provenance.complete, provenance.speed_event_count), (below, false, 0));
    assert!(provenance.incomplete_reason.contains("down for a test"), "{}", provenance.incomplete_reason);
    assert_eq!(provenance.head, place(60));

    let asked_before = fixture.speed().questions;
    let request = GetUserStatsRequest { explain: true, ..with(Consistency::BatchOnly) };
    let response = fixture.client.get_user_stats(request).await.unwrap().into_inner();
    assert_eq!(response.explanation.clone().unwrap().speed, None);
    let (stats, provenance) = parts(response);
    assert_eq!((stats.event_count, provenance.complete, provenance.head), (below, true, place(60)));
    assert_eq!(fixture.speed().questions, asked_before, "BATCH_ONLY never asks");

    fixture.speed().down = false;
    let best = fixture.client.get_user_stats(with(Consistency::BestEffort)).await.unwrap().into_inner();
    assert!(parts(best).1.complete);
}

/// Proves that a position is met, or is an error or an incomplete answer, in each consistency.
#[tokio::test]
async fn min_position() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let mut code = async |consistency: Consistency, position: String| {
        let request = GetUserStatsRequest { min_position: position, ..with(consistency) };
        fixture.client.get_user_stats(request).await.map(|response| parts(response.into_inner()).1.complete).map_err(|e| e.code())
    };
    let upto = |offset: i64| format!("{LOG_ID}:0={offset}");
    assert_eq!(code(Consistency::Fresh, upto(100)).await, Ok(true));
    assert_eq!(code(Consistency::Fresh, upto(101)).await, Err(Code::Unavailable));
    assert_eq!(code(Consistency::BestEffort, upto(100)).await, Ok(true));
    assert_eq!(code(Consistency::BestEffort, upto(101)).await, Ok(false));
    assert_eq!(code(Consistency::BatchOnly, upto(60)).await, Ok(true));
    assert_eq!(code(Consistency::BatchOnly, upto(61)).await, Err(Code::FailedPrecondition));
    for consistency in [Consistency::Fresh, Consistency::BestEffort, Consistency::BatchOnly] {
        assert_eq!(code(consistency, "ffff:0=1".into()).await, Err(Code::FailedPrecondition));
    }
}

/// Proves that an answer over 4 MiB is refused with what to ask instead.
#[tokio::test]
async fn too_large() {
    let sql = "SELECT user_id, date_trunc('day', event_time) AS bucket, min(repeat(event_id, 2000)) AS long \
               FROM events GROUP BY user_id, date_trunc('day', event_time)";
    let mut fixture = Fixture::with(sql, &[60], 100, std::time::Duration::from_secs(3600)).await;
    let user_ids = vec!["user-0".to_owned(); 1000];
    let request = BatchGetUserStatsRequest { user_ids, granularity: Granularity::Bucket.into(), ..Default::default() };
    let status = fixture.client.batch_get_user_stats(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("about 1000 users") && status.message().contains("fewer users"), "{status}");
}

/// Proves that an answer about one user over 4 MiB is refused with a range of buckets that fits, and that it does.
#[tokio::test]
async fn too_large_for_one() {
    let sql = "SELECT user_id, date_trunc('day', event_time) AS bucket, min(repeat(event_id, 500000)) AS long \
               FROM events GROUP BY user_id, date_trunc('day', event_time)";
    let mut fixture = Fixture::with(sql, &[60], 100, std::time::Duration::from_secs(3600)).await;
    let request = GetUserStatsRequest { granularity: Granularity::Bucket.into(), ..about("user-0") };
    let status = fixture.client.get_user_stats(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("its first 2 buckets fit: ask for them with end_time = 1970-01-03T00:00:00Z"), "{status}");
    let end_time = Some(prost_types::Timestamp { seconds: 2 * 86_400, nanos: 0 });
    let (stats, _) = parts(fixture.client.get_user_stats(GetUserStatsRequest { end_time, ..request }).await.unwrap().into_inner());
    assert_eq!(stats.buckets.len(), 2);
}

/// Proves that views are listed, and that health is served.
#[tokio::test]
async fn the_rest_of_the_surface() {
    let fixture = Fixture::new(&[], 0).await;
    let views = ViewServiceClient::new(fixture.channel.clone()).list_views(ListViewsRequest {}).await.unwrap().into_inner().views;
    assert_eq!(views.iter().map(|view| (view.name.as_str(), view.version)).collect::<Vec<_>>(), [("user_stats", 0)]);
    let mut health = tonic_health::pb::health_client::HealthClient::new(fixture.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: "merganser.v1.UserStatsService".into() };
    let health = health.check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
}
