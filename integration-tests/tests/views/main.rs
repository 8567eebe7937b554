//! Views with keys of several columns, local days and a limit: every answer equals the oracle's.
//!
//! `VIEW_SCHEDULES=100` sets how many random schedules, `SEED=17` the first of their consecutive seeds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

/// A random question: as it is asked, and what its rows must be.
mod asked;
/// An export, read to its end.
mod exported;
/// Random operations, every answer compared.
mod player;

use futures::{StreamExt, stream};
use integration_tests::oracle::DAY_US;
use integration_tests::view_oracle::{HOUR_US, Over, Question, View};
use merganser_proto::v1::{CalendarUnit, GetTopRowsRequest, GetViewRowsRequest, Granularity, ListVersionsRequest, ListViewsRequest, Value};
use tonic::{Code, Status};

use asked::{ALWAYS, SPRING_US, about, duration, timed, timestamp};
use player::Player;

/// Schedules unless told otherwise, and how many are under way at once.
const DEFAULT_SCHEDULES: u64 = 6;
const SIDE_BY_SIDE: usize = 3;

const ITEM_DAYS: &str = "SELECT item, date_trunc('day', event_time, 'America/Havana') AS day,
       count(*) AS event_count, sum(amount) AS revenue, max(amount) AS largest
FROM events GROUP BY item, date_trunc('day', event_time, 'America/Havana')";
const USER_ACTIVITY: &str = "-- keep: 48h
SELECT user_id, event_type, date_trunc('minute', event_time) AS minute, count(*) AS event_count, sum(amount) AS revenue
FROM events GROUP BY user_id, event_type, minute";
const USER_STATS: &str = include_str!("../../../views/user_stats.sql");

/// By name.
const VIEWS: [View; 3] = [View::ItemDays, View::UserActivity, View::UserStats];

/// What the file of a view says.
struct Declared {
    name: &'static str,
    key: &'static [&'static str],
    bucket: &'static str,
    measures: &'static [&'static str],
    sql: &'static str,
}

fn declared(view: View) -> Declared {
    let (name, key, bucket, measures, sql): (_, &[_], _, &[_], _) = match view {
        View::ItemDays => ("item_days", &["item"], "day", &["event_count", "revenue", "largest"], ITEM_DAYS),
        View::UserActivity => ("user_activity", &["user_id", "event_type"], "minute", &["event_count", "revenue"], USER_ACTIVITY),
        View::UserStats => {
            let measures = &["event_count", "revenue", "first_event_time", "last_event_time"];
            ("user_stats", &["user_id"], "bucket", measures, USER_STATS)
        }
    };
    Declared { name, key, bucket, measures, sql }
}

/// Proves that in every view each acknowledged event counts exactly once, under its whole key and in its local day, for as long
/// as the view keeps it, also while versions are published and after restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_row_equals_the_oracle() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("SEED", 1), number("VIEW_SCHEDULES", DEFAULT_SCHEDULES));
    println!("seeds {first} to {}", first + count - 1);
    let mut playing = stream::iter(first..first + count).map(|seed| tokio::spawn(player::play(seed))).buffer_unordered(SIDE_BY_SIDE);
    while let Some(played) = playing.next().await {
        println!("{}", played.unwrap().unwrap_or_else(|error| panic!("{error:#}")));
    }
}

/// Proves that the views tell their columns and SQL, and a view its versions, of which one answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_and_versions_are_listed() {
    let mut player = Player::start(1).await.unwrap();
    for view in [View::ItemDays, View::UserActivity, View::UserStats, View::ItemDays] {
        player.append().await.unwrap();
        player.run(view).await.unwrap();
    }
    let listed = player.cluster.views.list_views(timed(ListViewsRequest {})).await.unwrap().into_inner().views;
    assert_eq!(listed.len(), VIEWS.len(), "{listed:?}");
    for (found, view) in listed.iter().zip(VIEWS) {
        let Declared { name, key, bucket, measures, sql } = declared(view);
        assert_eq!((found.name.as_str(), found.bucket_column.as_str(), found.sql.trim()), (name, bucket, sql.trim()));
        assert_eq!((found.key_columns.join(" "), found.measure_columns.join(" ")), (key.join(" "), measures.join(" ")));
        assert_eq!(found.version, player.published(view), "{name}");
    }

    let request = ListVersionsRequest { view: "item_days".to_owned() };
    let versions = player.cluster.views.list_versions(timed(request)).await.unwrap().into_inner().versions;
    assert_eq!(versions.iter().map(|found| (found.version, found.current)).collect::<Vec<_>>(), [(2, true), (1, false)]);
    assert_ne!(versions[0].run_id, versions[1].run_id);
    let days = Question { view: View::ItemDays, beginning: vec![], range: ALWAYS, over: Over::Bucket };
    for found in &versions {
        let covered = player.covered(View::ItemDays, found.version).unwrap();
        let events: i64 = found.boundary.iter().map(|end| end.offset).sum();
        assert!((covered.start as i64..=covered.end as i64).contains(&events), "{found:?} covers {covered:?}");
        let [least, most] = [covered.start, covered.end].map(|end| days.rows(&player.facts[..end], i64::MIN).len() as i64);
        assert!((least..=most).contains(&found.row_count) && found.size_bytes > 0, "{found:?} has {least} to {most} rows");
        assert!(found.computed_time.is_some() && found.fingerprint == listed[0].fingerprint, "{found:?}");
    }
    player.cluster.stop().await.unwrap();
}

/// Proves that a question that makes no sense is refused with the name of the field, and that a view is not found before its first version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_questions_are_refused() {
    let mut player = Player::start(1).await.unwrap();
    let amounts = "SELECT amount, count(*) AS event_count FROM events GROUP BY amount";
    std::fs::write(player.cluster.folder().join("views/amounts.sql"), amounts).unwrap();
    player.append().await.unwrap();
    for name in ["item_days", "amounts"] {
        let early = player.cluster.views.get_view_rows(timed(about(name, "1"))).await.unwrap_err();
        assert_eq!(early.code(), Code::NotFound, "{early:?}");
    }
    player.run(View::ItemDays).await.unwrap();
    player.run(View::UserStats).await.unwrap();
    player.cluster.start_batch_run_of("amounts").await.unwrap().unwrap();
    player.wait_for("amounts", 1).await.unwrap();

    let user = player.facts[0].user.clone();
    let stats = || GetViewRowsRequest { granularity: Granularity::Bucket.into(), ..about("user_stats", &user) };
    let week = || GetViewRowsRequest { calendar_unit: CalendarUnit::Week.into(), ..stats() };
    let noon = Some(timestamp(SPRING_US + 7 * HOUR_US));
    let ten_minutes = Some(duration(600_000_000));
    for (field, question) in [
        ("view", about("nothing", &user)),
        ("key_parts", GetViewRowsRequest { key_parts: vec![Value::default(); 2], ..about("user_stats", "") }),
        ("key", about("amounts", "lots")),
        ("start_time", GetViewRowsRequest { start_time: noon, ..stats() }),
        ("end_time", GetViewRowsRequest { end_time: noon, ..stats() }),
        ("calendar_unit", GetViewRowsRequest { time_zone: "America/Havana".to_owned(), ..week() }),
        ("time_zone", GetViewRowsRequest { time_zone: "America/Atlantis".to_owned(), ..week() }),
        ("window", GetViewRowsRequest { window: ten_minutes, ..about("user_stats", &user) }),
        ("last", GetViewRowsRequest { last: ten_minutes, start_time: Some(timestamp(20_000 * DAY_US)), ..stats() }),
    ] {
        let refusal = player.cluster.views.get_view_rows(timed(question)).await.expect_err(field);
        assert_refused(&refusal, field);
    }
    let top = || GetTopRowsRequest { view: "user_stats".to_owned(), measure: "revenue".to_owned(), limit: 3, ..Default::default() };
    for (field, question) in [
        ("view", GetTopRowsRequest { view: "nothing".to_owned(), ..top() }),
        ("measure", GetTopRowsRequest { measure: "largest".to_owned(), ..top() }),
        ("limit", GetTopRowsRequest { limit: 0, ..top() }),
        ("limit", GetTopRowsRequest { limit: 1001, ..top() }),
    ] {
        let refusal = player.cluster.views.get_top_rows(timed(question)).await.expect_err(field);
        assert_refused(&refusal, field);
    }
    player.cluster.stop().await.unwrap();
}

fn assert_refused(refusal: &Status, field: &str) {
    let (code, named) = match field {
        "view" => (Code::NotFound, refusal.message().contains(field)),
        _ => (Code::InvalidArgument, refusal.message().starts_with(&format!("{field}: "))),
    };
    assert!(refusal.code() == code && named, "expected {code:?} for {field}, found {refusal:?}");
}
