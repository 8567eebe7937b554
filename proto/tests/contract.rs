//! What users hold on to: names and types that must never change, read back from the compiled descriptors.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use merganser_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Every call as `Service/Call(Request) -> Response`, with `stream` where a side streams.
const CALLS: &[&str] = &[
    "IngestService/AppendEvents(AppendEventsRequest) -> AppendEventsResponse",
    "IngestService/StreamEvents(stream StreamEventsRequest) -> stream StreamEventsResponse",
    "RealtimeViewService/Cut(CutRequest) -> CutResponse",
    "RealtimeViewService/PrepareVersion(PrepareVersionRequest) -> PrepareVersionResponse",
    "RealtimeViewService/GetStates(GetStatesRequest) -> GetStatesResponse",
    "RealtimeViewService/StreamStates(StreamStatesRequest) -> stream StreamStatesResponse",
    "RealtimeViewService/ExportStates(ExportStatesRequest) -> stream ExportStatesResponse",
    "RealtimeViewService/EraseUser(EraseUserRequest) -> EraseUserResponse",
    "SpeedStatusService/GetSpeedStatus(GetSpeedStatusRequest) -> GetSpeedStatusResponse",
    "UserStatsService/GetUserStats(GetUserStatsRequest) -> GetUserStatsResponse",
    "UserStatsService/BatchGetUserStats(BatchGetUserStatsRequest) -> BatchGetUserStatsResponse",
    "UserStatsService/WatchUserStats(WatchUserStatsRequest) -> stream WatchUserStatsResponse",
    "ViewService/ListViews(ListViewsRequest) -> ListViewsResponse",
    "ViewService/GetTopRows(GetTopRowsRequest) -> GetTopRowsResponse",
    "ViewService/GetViewRows(GetViewRowsRequest) -> GetViewRowsResponse",
    "ViewService/ExportViewRows(ExportViewRowsRequest) -> stream ExportViewRowsResponse",
    "ViewService/ListVersions(ListVersionsRequest) -> ListVersionsResponse",
];

/// The messages that clients read and write, each field as `type name=number`.
const FIELDS: &[(&str, &[&str])] = &[
    ("AppendEventsRequest", &["Event[] events=1"]),
    ("AppendEventsResponse", &["int64 accepted_count=1", "int64 duplicate_count=2", "RowError[] rejected=3", "string position=4"]),
    ("StreamEventsRequest", &["Event[] events=1"]),
    ("StreamEventsResponse", &["int64 accepted_count=1", "int64 duplicate_count=2", "RowError[] rejected=3", "string position=4"]),
    (
        "Event",
        &[
            "string event_id=1",
            "string user_id=2",
            "Timestamp event_time=3",
            "string event_type=4",
            "string amount=5",
            "map<string,string> attributes=6",
        ],
    ),
    ("RowError", &["int32 index=1", "string event_id=2", "string field=3", "string reason=4"]),
    (
        "GetUserStatsRequest",
        &[
            "string user_id=1",
            "Timestamp start_time=2",
            "Timestamp end_time=3",
            "Granularity granularity=4",
            "Consistency consistency=5",
            "string min_position=6",
            "bool explain=7",
            "int64 version=8",
        ],
    ),
    ("GetUserStatsResponse", &["UserStats stats=1", "Provenance provenance=2", "Explanation explanation=3"]),
    (
        "Explanation",
        &[
            "UserStats batch=1",
            "UserStats speed=2",
            "int64 parent_version=3",
            "string run_id=4",
            "int64 late_duplicate_count=5",
            "int64 conflict_count=6",
            "FileRead[] files=7",
            "int64 batch_row_count=8",
            "int64 batch_block_count=9",
            "Duration batch_duration=10",
            "SliceContribution[] slices=11",
            "string slices_missing_reason=12",
            "Duration speed_duration=13",
            "PartitionOffset erased=14",
        ],
    ),
    ("FileRead", &["string path=1", "int64 row_count=2"]),
    ("SliceContribution", &["int32 partition=1", "int64 start_offset=2", "int64 end_offset=3", "int64 row_count=4", "int64 event_count=5"]),
    ("BatchGetUserStatsResponse", &["UserStats[] stats=1", "Provenance provenance=2"]),
    (
        "UserStats",
        &[
            "string user_id=1",
            "bool found=2",
            "int64 event_count=3",
            "string revenue=4",
            "Timestamp first_event_time=5",
            "Timestamp last_event_time=6",
            "map<string,Value> measures=7",
            "Bucket[] buckets=8",
        ],
    ),
    ("Bucket", &["Timestamp start_time=1", "int64 event_count=2", "string revenue=3", "map<string,Value> measures=4"]),
    (
        "Provenance",
        &[
            "string view=1",
            "int64 version=2",
            "Timestamp computed_time=3",
            "PartitionOffset[] boundary=4",
            "PartitionOffset[] head=5",
            "bool complete=6",
            "string incomplete_reason=7",
            "int64 batch_event_count=8",
            "int64 speed_event_count=9",
            "string fingerprint=10",
            "Timestamp kept_from_time=11",
        ],
    ),
    (
        "ExportViewRowsRequest",
        &[
            "string view=1",
            "Timestamp start_time=2",
            "Timestamp end_time=3",
            "Granularity granularity=4",
            "Consistency consistency=5",
            "string min_position=6",
            "int64 version=7",
            "CalendarUnit calendar_unit=8",
            "string time_zone=9",
        ],
    ),
    ("ExportViewRowsResponse", &["bytes arrow_ipc=1", "ExportSummary summary=2"]),
    ("ExportSummary", &["int64 row_count=1", "Provenance provenance=2"]),
    ("PartitionOffset", &["int32 partition=1", "int64 offset=2"]),
    (
        "Value",
        &[
            "int64 int_value=1",
            "double double_value=2",
            "string decimal_value=3",
            "string string_value=4",
            "bool bool_value=5",
            "Timestamp timestamp_value=6",
        ],
    ),
];

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let ours = |file: &FileDescriptorProto| file.package() == "merganser.v1";
    set.file.into_iter().filter(ours).collect()
}

fn messages() -> BTreeMap<String, DescriptorProto> {
    let all = files().into_iter().flat_map(|file| file.message_type);
    all.map(|message| (message.name().to_owned(), message)).collect()
}

/// The last part of a qualified name: `.merganser.v1.Event` is `Event`.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

fn type_name(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let entry = message.nested_type.iter().find(|nested| nested.name() == name);
    match entry {
        Some(entry) => {
            let parts: Vec<_> = entry.field.iter().map(|part| type_name(entry, part)).collect();
            format!("map<{}>", parts.join(","))
        }
        None if field.label() == Label::Repeated => format!("{name}[]"),
        None => name,
    }
}

#[test]
fn calls_are_those_of_the_contract() {
    // Proves that no call was renamed, dropped, or changed between unary and streaming.
    let mut calls = Vec::new();
    for service in files().iter().flat_map(|file| &file.service) {
        for call in &service.method {
            let stream = |streams| if streams { "stream " } else { "" };
            calls.push(format!(
                "{}/{}({}{}) -> {}{}",
                service.name(),
                call.name(),
                stream(call.client_streaming()),
                short(call.input_type()),
                stream(call.server_streaming()),
                short(call.output_type()),
            ));
        }
    }
    calls.sort();
    let mut expected = CALLS.to_vec();
    expected.sort();
    assert_eq!(calls, expected);
}

#[test]
fn fields_are_those_of_the_contract() {
    // Proves that names, types and numbers of what clients read and write stay as they were promised.
    let messages = messages();
    for (name, expected) in FIELDS {
        let message = &messages[*name];
        let fields: Vec<_> =
            message.field.iter().map(|field| format!("{} {}={}", type_name(message, field), field.name(), field.number())).collect();
        assert_eq!(&fields, expected, "{name}");
    }
}

#[test]
fn watching_asks_what_getting_asks() {
    // Proves that WatchUserStats takes and gives the very fields of GetUserStats, and one more of its own each way.
    let messages = messages();
    for (half, own) in [("Request", "Duration min_interval=9"), ("Response", "bool unchanged=4")] {
        let fields = |call: &str| messages[&format!("{call}UserStats{half}")].field.clone();
        let mut watched = fields("Watch");
        let last = watched.pop().unwrap();
        let watch = &messages[&format!("WatchUserStats{half}")];
        assert_eq!(format!("{} {}={}", type_name(watch, &last), last.name(), last.number()), own);
        assert_eq!(watched, fields("Get"), "{half}");
    }
}

#[test]
fn no_integer_is_unsigned() {
    // Proves that clients in languages without unsigned integers can read every field.
    fn walk(message: &DescriptorProto, found: &mut Vec<String>, seen: &mut usize) {
        for field in &message.field {
            *seen += 1;
            if matches!(field.r#type(), Type::Uint32 | Type::Uint64 | Type::Fixed32 | Type::Fixed64) {
                found.push(format!("{}.{}", message.name(), field.name()));
            }
        }
        message.nested_type.iter().for_each(|nested| walk(nested, found, seen));
    }
    let (mut found, mut seen) = (Vec::new(), 0);
    messages().values().for_each(|message| walk(message, &mut found, &mut seen));
    assert!(found.is_empty(), "unsigned: {found:?}");
    assert!(seen > 100, "the walk saw only {seen} fields");
}

#[test]
fn enums_start_unspecified_and_carry_their_prefix() {
    // Proves that zero means "not said", and that the first named value, the default, follows it.
    let mut enums: Vec<Vec<String>> = Vec::new();
    for declared in files().iter().flat_map(|file| &file.enum_type) {
        enums.push(declared.value.iter().map(|value| format!("{}={}", value.name(), value.number())).collect());
    }
    let expected = [
        vec!["GRANULARITY_UNSPECIFIED=0", "GRANULARITY_TOTAL=1", "GRANULARITY_BUCKET=2"],
        vec![
            "CALENDAR_UNIT_UNSPECIFIED=0",
            "CALENDAR_UNIT_DAY=1",
            "CALENDAR_UNIT_WEEK=2",
            "CALENDAR_UNIT_MONTH=3",
            "CALENDAR_UNIT_QUARTER=4",
            "CALENDAR_UNIT_YEAR=5",
        ],
        vec!["CONSISTENCY_UNSPECIFIED=0", "CONSISTENCY_FRESH=1", "CONSISTENCY_BEST_EFFORT=2", "CONSISTENCY_BATCH_ONLY=3"],
    ];
    assert_eq!(enums, expected);
}

#[test]
fn every_call_is_built_and_described() {
    // Proves that no call announces UNIMPLEMENTED in its comment, and that all calls have one.
    const SERVICE: i32 = 6; // FileDescriptorProto.service
    const METHOD: i32 = 2; // ServiceDescriptorProto.method
    let mut announced = Vec::new();
    for file in files() {
        let comments = file.source_code_info.clone().unwrap_or_default().location;
        for (s, service) in file.service.iter().enumerate() {
            for (m, call) in service.method.iter().enumerate() {
                let path = [SERVICE, s as i32, METHOD, m as i32];
                let place = comments.iter().find(|location| location.path == path);
                let comment = place.map(|location| location.leading_comments().to_owned()).unwrap_or_default();
                assert!(!comment.trim().is_empty(), "{} has no comment", call.name());
                if comment.contains("UNIMPLEMENTED") {
                    announced.push(call.name().to_owned());
                }
            }
        }
    }
    announced.sort();
    assert!(announced.is_empty(), "{announced:?}");
}
