use merganser_proto::Transport;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::speed_status_service_client::SpeedStatusServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event, GetSpeedStatusRequest};

use super::*;

fn sent(event_id: &str, amount: &str) -> Event {
    let event_time = Some(prost_types::Timestamp { seconds: 1_000_000, nanos: 0 });
    Event { event_id: event_id.to_owned(), user_id: "user-1".to_owned(), event_time, amount: amount.to_owned(), ..Event::default() }
}

/// Proves that what is told adds up with what was sent: each row by what became of it, the log by its offsets, a refused row with its reason and the
/// event as it came, and none of an erased user.
#[tokio::test]
async fn what_is_told() {
    let rig = rig();
    let layer = rig.quiet().await;
    let transport = Transport::new(layer.routes());
    let mut status = SpeedStatusServiceClient::new(transport.clone());
    let events = vec![sent("a", "1.5"), sent("a", "1.5"), sent("b", "2"), sent("c", "much"), sent("d", "more")];
    IngestServiceClient::new(transport).append_events(AppendEventsRequest { events }).await.unwrap();

    let told = status.get_speed_status(GetSpeedStatusRequest { with_dead_letters: true }).await.unwrap().into_inner();
    let rows = [told.received_count, told.accepted_count, told.duplicate_count, told.refused_count, told.failed_count];
    assert_eq!(rows, [5, 2, 1, 2, 0]);
    let partition = &told.partitions[0];
    assert_eq!((partition.start_offset, partition.archived_offset, partition.head_offset), (0, 0, 2));
    assert!(partition.unarchived_age.is_some() && partition.slice_row_count == 1 && partition.slice_bytes > 0, "{partition:?}");
    assert_eq!(told.append_latency.unwrap().counts.iter().sum::<i64>(), 1);
    assert_eq!((told.dead_letter_count, told.log_failed), (2, false));
    let letters = told.dead_letters.unwrap();
    assert_eq!((letters.outstanding_count, letters.settled_count, letters.partial, letters.failure.as_str()), (2, 0, false, ""));
    let group = &letters.groups[0];
    assert_eq!((group.field.as_str(), group.outstanding_count, group.samples.len()), ("amount", 2, 2));
    assert!(group.samples[0].event_json.contains("\"much\""), "{group:?}");

    let brief = status.get_speed_status(GetSpeedStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(brief.dead_letters, None);
    layer.close().await;
}
