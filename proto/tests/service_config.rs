//! The service config that clients take: that it says something about every call there is, and nothing that a call cannot bear.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use merganser_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use serde_json::Value;

/// Calls that no library should make twice by itself: they act on all that is there at that moment.
const NEVER_TWICE: [&str; 2] = ["merganser.v1.RealtimeViewService/Cut", "merganser.v1.RealtimeViewService/EraseUser"];
/// What gRPC libraries cut larger numbers to.
const MAX_ATTEMPTS: u64 = 5;

fn config() -> Value {
    serde_json::from_str(include_str!("../service_config.json")).unwrap()
}

/// Every call of the contract, as `package.Service/Method`.
fn calls() -> BTreeMap<String, MethodDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files = set.file.iter().filter(|file| file.package() == "merganser.v1");
    let services = files.flat_map(|file| &file.service);
    services
        .flat_map(|service| {
            service.method.iter().map(|method| (format!("merganser.v1.{}/{}", service.name(), method.name()), method.clone()))
        })
        .collect()
}

/// Each call that the config names, with what it says; a name that stands twice is given twice.
fn said() -> Vec<(String, Value)> {
    let said = |entry: &Value| {
        let name = |name: &Value| format!("{}/{}", name["service"].as_str().unwrap(), name["method"].as_str().unwrap());
        entry["name"].as_array().unwrap().iter().map(|named| (name(named), entry.clone())).collect::<Vec<_>>()
    };
    config()["methodConfig"].as_array().unwrap().iter().flat_map(said).collect()
}

/// Seconds, as JSON has a `google.protobuf.Duration`.
fn seconds(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.strip_suffix('s')?.parse().ok()).unwrap_or_else(|| panic!("{value} is no duration"))
}

#[test]
fn every_call_is_there_once() {
    // Proves that each call of the contract is named, none twice, and none that does not exist.
    let mut named: Vec<_> = said().into_iter().map(|(name, _)| name).collect();
    named.sort();
    let calls: Vec<_> = calls().into_keys().collect();
    assert_eq!(named, calls, "proto/service_config.json names each call of the contract once");
}

#[test]
fn calls_end_and_streams_do_not() {
    // Proves that every call with one answer has a deadline longer than the server's own, and a stream without an end of its own has none.
    let calls = calls();
    for (name, config) in said() {
        let call = &calls[&name];
        let is_endless = call.server_streaming() && !name.ends_with("ExportStates");
        assert_eq!(config["timeout"].is_null(), is_endless, "{name}");
        if !is_endless {
            // The server gives a question up after 5 s, an append after 10 s, and what the batch layer asks after 10 minutes.
            let least = if name.ends_with("AppendEvents") { 10.0 } else { 5.0 };
            assert!(seconds(&config["timeout"]) > least, "{name}");
        }
    }
}

#[test]
fn only_what_is_safe_is_repeated() {
    // Proves that retries are bounded, wait, happen on codes that pass by themselves only, never for what acts anew each time, and that
    // nothing is sent twice at once.
    assert!(config()["retryThrottling"]["maxTokens"].as_f64().unwrap() > 0.0);
    let passing: BTreeSet<_> = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"].into();
    let mut repeated = 0;
    for (name, config) in said() {
        assert!(config["hedgingPolicy"].is_null(), "{name}");
        let policy = &config["retryPolicy"];
        if policy.is_null() {
            continue;
        }
        repeated += 1;
        assert!(!NEVER_TWICE.contains(&name.as_str()), "{name}");
        assert!((2..=MAX_ATTEMPTS).contains(&policy["maxAttempts"].as_u64().unwrap()), "{name}");
        let (first, last) = (seconds(&policy["initialBackoff"]), seconds(&policy["maxBackoff"]));
        assert!(0.0 < first && first <= last && policy["backoffMultiplier"].as_f64().unwrap() > 1.0, "{name}");
        let codes: BTreeSet<_> = policy["retryableStatusCodes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
        assert_eq!(codes, passing, "{name}");
    }
    assert_eq!(repeated, 8, "appends, questions and watches are repeated");
}
