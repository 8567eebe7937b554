use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{
    AppendEventsRequest, BatchGetUserStatsRequest, Event, GetUserStatsRequest, GetViewRowsRequest, ListVersionsRequest, Value,
};
use prost_types::{Duration, Timestamp};
use tonic::Code;
use tonic_types::StatusExt;

use super::victim::{Over, PAYLOAD, Victim, event};

/// Seconds since 1970 of a year's first moment, give or take the leap days that do not matter here.
const YEAR_SECONDS: i64 = 31_556_952;

over_both!(values, questions);

/// Proves that each value is taken or refused under the name of its field, that neither the answer nor the log repeats it, and
/// that what was taken counts exactly once.
async fn values(over: Over) {
    let victim = Victim::start("", over).await;
    let mut ingest = IngestServiceClient::new(victim.channel(victim.speed));
    let with = |change: &dyn Fn(&mut Event)| {
        let mut event = event("id", "user");
        change(&mut event);
        event
    };
    let time = |year: i64| Some(Timestamp { seconds: (year - 1970) * YEAR_SECONDS, nanos: 0 });
    let attribute = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let texts = |text: &str| [format!("{PAYLOAD}{text}"), format!("{text}{PAYLOAD}")];

    // Refused, with the field that is to blame.
    let mut refused: Vec<(&str, Event)> = vec![
        ("event_id", with(&|e| e.event_id = "i".repeat(129))),
        ("event_id", with(&|e| e.event_id = String::new())),
        ("user_id", with(&|e| e.user_id = "ü".repeat(128) + "x")),
        ("user_id", with(&|e| e.user_id = String::new())),
        ("event_time", with(&|e| e.event_time = time(1899))),
        ("event_time", with(&|e| e.event_time = time(2201))),
        ("event_time", with(&|e| e.event_time = time(292_277))),
        ("event_time", with(&|e| e.event_time = Some(Timestamp { seconds: i64::MIN, nanos: i32::MIN }))),
        ("event_time", with(&|e| e.event_time = None)),
        ("event_type", with(&|e| e.event_type = PAYLOAD.repeat(20))),
        ("attributes", with(&|e| e.attributes = attribute("a", &PAYLOAD.repeat(4000)))),
    ];
    for id in texts("\0") {
        refused.push(("user_id", with(&|e| e.user_id.clone_from(&id))));
        refused.push(("event_id", with(&|e| e.event_id.clone_from(&id))));
    }
    for amount in ["NaN", "inf", "-Infinity", "1e99", "0x10", "1.00001", "100000000000000", "9".repeat(400).as_str(), "١٢", "1 ", PAYLOAD]
    {
        refused.push(("amount", with(&|e| e.amount = amount.to_owned())));
    }
    let events: Vec<Event> = refused.iter().map(|(_, event)| event.clone()).collect();
    let answer = ingest.append_events(AppendEventsRequest { events: events.clone() }).await.unwrap().into_inner();
    assert_eq!(answer.rejected.len(), events.len(), "{answer:?}");
    for (error, (field, event)) in answer.rejected.iter().zip(&refused) {
        assert_eq!((&*error.field, error.reason.contains(PAYLOAD)), (*field, false), "{event:?}");
    }

    // Taken: edges, and names that would be paths.
    let longest = "ü".repeat(128);
    let names =
        ["..", "../../etc/passwd", "%2e%2e", "%00", "user", "usеr", "USER", "u/s", "\\", "\u{202e}resu", "a b", "*", longest.as_str()];
    let taken = names.iter().map(|name| event("edge", name));
    let amounts = ["99999999999999.9999", "-99999999999999.9999", "0", "-0.0000", "", "00001"];
    let taken =
        taken.chain(amounts.iter().enumerate().map(|(i, amount)| Event { amount: (*amount).into(), ..event(&format!("a{i}"), "amounts") }));
    let taken = taken.chain(["first", &"i".repeat(128)].map(|id| event(id, "ids")));
    let times = [(-2_208_988_800, 0), (7_258_118_399, 999_999_999)];
    let taken = taken.chain(
        times.map(|(seconds, nanos)| Event { event_time: Some(Timestamp { seconds, nanos }), ..event(&seconds.to_string(), "times") }),
    );
    let largest = Event { attributes: attribute("quantity", &i64::MAX.to_string()), ..event("m1", "maximum") };
    let taken: Vec<Event> = taken.chain([largest.clone(), Event { event_id: "m2".into(), ..largest }]).collect();
    let answer = ingest.append_events(AppendEventsRequest { events: taken.clone() }).await.unwrap().into_inner();
    assert_eq!((answer.accepted_count, answer.rejected), (taken.len() as i64, vec![]));
    let again = ingest.append_events(AppendEventsRequest { events: taken.clone() }).await.unwrap().into_inner();
    assert_eq!((again.accepted_count, again.duplicate_count), (0, taken.len() as i64));
    count(&victim, &names, 1).await;
    count(&victim, &["amounts"], amounts.len() as i64).await;
    count(&victim, &["ids", "times", "maximum"], 2).await;
    victim.is_well("values").await;
    assert!(!victim.log().contains("99999999999999"), "an amount is in the log");
}

/// Each of these users has so many events.
async fn count(victim: &Victim, users: &[&str], events: i64) {
    let question = BatchGetUserStatsRequest { user_ids: users.iter().map(|user| (*user).to_owned()).collect(), ..Default::default() };
    let answer = UserStatsServiceClient::new(victim.channel(victim.serving)).batch_get_user_stats(question).await.unwrap().into_inner();
    for (stats, user) in answer.stats.iter().zip(users) {
        assert_eq!((&*stats.user_id, stats.event_count), (*user, events));
    }
}

/// Proves that questions that make no sense are refused with the field and nothing of its value, and unknown keys are not found.
async fn questions(over: Over) {
    let victim = Victim::start("", over).await;
    let mut stats = UserStatsServiceClient::new(victim.channel(victim.serving));
    let about = |user: &str| GetUserStatsRequest { user_id: user.into(), ..Default::default() };
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let cases = [
        ("user_id", about("")),
        ("user_id", about(&PAYLOAD.repeat(20))),
        ("start_time", GetUserStatsRequest { start_time: at(i64::MAX), ..about("u") }),
        ("start_time", GetUserStatsRequest { start_time: at(i64::MIN), ..about("u") }),
        ("start_time", GetUserStatsRequest { start_time: Some(Timestamp { seconds: 0, nanos: -1 }), ..about("u") }),
        ("end_time", GetUserStatsRequest { start_time: at(86_400), end_time: at(0), ..about("u") }),
        ("granularity", GetUserStatsRequest { granularity: 99, ..about("u") }),
        ("consistency", GetUserStatsRequest { consistency: i32::MIN, ..about("u") }),
        ("min_position", GetUserStatsRequest { min_position: PAYLOAD.repeat(100), ..about("u") }),
    ];
    for (field, question) in cases {
        let refusal = stats.get_user_stats(question).await.expect_err(field);
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        let details = refusal.get_details_bad_request().expect("it says which field");
        assert_eq!(details.field_violations[0].field, field);
        assert!(!refusal.message().contains(PAYLOAD), "{refusal:?}");
    }
    for user in ["..", "%2e%2e/%2e%2e", "a\0b", "usеr_stats", PAYLOAD] {
        let found = stats.get_user_stats(about(user)).await.unwrap().into_inner().stats.unwrap();
        assert!(!found.found);
    }
    let many = BatchGetUserStatsRequest { user_ids: vec![PAYLOAD.into(); 1001], ..Default::default() };
    assert_eq!(stats.batch_get_user_stats(many).await.unwrap_err().code(), Code::InvalidArgument);
    let mut rows = ViewServiceClient::new(victim.channel(victim.serving));
    let far = Timestamp { seconds: 9_000_000_000_000, nanos: 0 };
    let about = |key: &str| GetViewRowsRequest { view: "user_stats".into(), key: key.into(), ..Default::default() };
    let cases = [
        ("key", about("")),
        ("key_parts", GetViewRowsRequest { key_parts: vec![Value { kind: Some(Kind::StringValue(PAYLOAD.into())) }; 5_000], ..about("") }),
        ("key_parts", GetViewRowsRequest { key_parts: vec![Value { kind: Some(Kind::DoubleValue(f64::NAN)) }], ..about("") }),
        ("key_parts", GetViewRowsRequest { key_parts: vec![Value { kind: Some(Kind::TimestampValue(far)) }], ..about("") }),
        ("time_zone", GetViewRowsRequest { time_zone: PAYLOAD.repeat(100), calendar_unit: 1, granularity: 2, ..about("u") }),
        ("calendar_unit", GetViewRowsRequest { calendar_unit: i32::MAX, granularity: 2, ..about("u") }),
        ("last", GetViewRowsRequest { last: Some(Duration { seconds: i64::MAX, nanos: i32::MAX }), ..about("u") }),
        ("window", GetViewRowsRequest { window: Some(Duration { seconds: i64::MIN, nanos: i32::MIN }), granularity: 2, ..about("u") }),
    ];
    for (field, question) in cases {
        let refusal = rows.get_view_rows(question).await.expect_err(field);
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        assert_eq!(refusal.get_details_bad_request().expect("it says which field").field_violations[0].field, field);
        assert!(!refusal.message().contains(PAYLOAD), "{refusal:?}");
    }
    for key in ["a\0b", "a\0\u{1}b", "\0\0", PAYLOAD] {
        assert!(rows.get_view_rows(about(key)).await.unwrap().into_inner().rows.is_empty());
    }
    let names = ["..", "%2e%2e", "user_stats\0", "usеr_stats", "user_stats/../user_stats", "", PAYLOAD];
    for view in names {
        let refusal = rows.get_view_rows(GetViewRowsRequest { view: view.into(), ..about("u") }).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{view}");
        assert!(!refusal.message().contains(PAYLOAD), "{refusal:?}");
        let refusal = rows.list_versions(ListVersionsRequest { view: view.into() }).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{view}");
    }
    let mut realtime = merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient::new(victim.channel(victim.speed));
    for view in names {
        let question = merganser_proto::v1::PrepareVersionRequest { view: view.into(), version: 1, check_only: false };
        assert_eq!(realtime.prepare_version(question).await.unwrap_err().code(), Code::InvalidArgument, "{view}");
    }
    victim.is_well("questions").await;
}
