//! The clock is paused: it goes on, in one step, when nothing else can.

use std::time::Duration;

use merganser_proto::v1::{Consistency, GetUserStatsRequest, WatchUserStatsRequest, WatchUserStatsResponse};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::fixture::{InProcess, publish};

const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Longer than anything here may take.
const HOUR: Duration = Duration::from_secs(3600);

fn watching(consistency: Consistency) -> WatchUserStatsRequest {
    WatchUserStatsRequest { user_id: "user-0".to_owned(), consistency: consistency.into(), ..WatchUserStatsRequest::default() }
}

async fn watch(fixture: &mut InProcess, request: WatchUserStatsRequest) -> Streaming<WatchUserStatsResponse> {
    fixture.client.watch_user_stats(request).await.unwrap().into_inner()
}

/// What the stream says next; an end without a status is none of ours.
async fn next(stream: &mut Streaming<WatchUserStatsResponse>) -> Result<WatchUserStatsResponse, Status> {
    let said = timeout(HOUR, stream.message()).await.expect("a stream is never silent for an hour");
    said.map(|response| response.expect("a watch ends with a status"))
}

/// Events of user-0 below `head`: each third one.
fn count(head: i64) -> i64 {
    (head + 2) / 3
}

fn counted(response: &WatchUserStatsResponse) -> i64 {
    response.stats.as_ref().expect("it is an answer").event_count
}

/// Proves that the first answer is what a get says, that a change is answered, that a new version is, and that nothing is when only
/// the head has moved.
#[tokio::test(start_paused = true)]
async fn now_and_at_each_change() {
    let mut fixture = InProcess::new(&[60], 100).await;
    let mut stream = watch(&mut fixture, watching(Consistency::Fresh)).await;
    let first = next(&mut stream).await.unwrap();
    let question = GetUserStatsRequest { user_id: "user-0".to_owned(), ..GetUserStatsRequest::default() };
    let got = fixture.client.get_user_stats(question).await.unwrap().into_inner();
    assert_eq!((first.stats.clone(), first.provenance.clone()), (got.stats, got.provenance));
    assert_eq!((counted(&first), first.unchanged), (count(100), false));

    fixture.speed().head = 103;
    assert_eq!(counted(&next(&mut stream).await.unwrap()), count(103));
    // Events 103 and 104 are others'.
    fixture.speed().head = 105;
    let sign = next(&mut stream).await.unwrap();
    assert!(sign.unchanged && sign.stats.is_none(), "{sign:?}");
    assert_eq!(sign.provenance.unwrap().head[0].offset, 105, "a sign of life says how far its look went");

    publish(&fixture.store, &fixture.definition, 2, 90).await;
    let swapped = next(&mut stream).await.unwrap();
    let provenance = swapped.provenance.clone().unwrap();
    assert_eq!((counted(&swapped), provenance.version, provenance.batch_event_count), (count(105), 2, count(90)));
}

/// Proves that answers are at least the interval apart however often the user changes, that the last change is answered, and that
/// an interval outside the bounds is refused by name.
#[tokio::test(start_paused = true)]
async fn bounded_rate() {
    let mut fixture = InProcess::new(&[60], 100).await;
    let interval = Duration::from_millis(700);
    let with = |min_interval: Duration| {
        let min_interval = Some(prost_types::Duration::try_from(min_interval).unwrap());
        WatchUserStatsRequest { min_interval, ..watching(Consistency::Fresh) }
    };
    let mut stream = watch(&mut fixture, with(interval)).await;
    assert_eq!(counted(&next(&mut stream).await.unwrap()), count(100));
    let speed = fixture.state();
    let changing = tokio::spawn(async move {
        for head in 101..=400 {
            speed.lock().unwrap().head = head;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut last = Instant::now();
    let mut answers = 0;
    loop {
        let answer = next(&mut stream).await.unwrap();
        assert!(last.elapsed() >= interval, "{:?} after the one before", last.elapsed());
        last = Instant::now();
        answers += 1;
        if counted(&answer) == count(400) {
            break;
        }
    }
    assert_eq!(answers, 6 * 1000 / 700 + 1, "one an interval, and the last");
    changing.await.unwrap();
    for outside in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(3601)] {
        let refused = fixture.client.watch_user_stats(with(outside)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "min_interval");
    }
}

/// Proves that a stream without changes says every ten seconds that it lives, whatever its interval.
#[tokio::test(start_paused = true)]
async fn signs_of_life() {
    let mut fixture = InProcess::new(&[60], 100).await;
    let min_interval = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    for request in [watching(Consistency::Fresh), WatchUserStatsRequest { min_interval, ..watching(Consistency::BatchOnly) }] {
        let mut stream = watch(&mut fixture, request).await;
        let first = next(&mut stream).await.unwrap();
        for _ in 0..5 {
            let before = Instant::now();
            let sign = next(&mut stream).await.unwrap();
            assert_eq!(before.elapsed().as_secs(), SIGN_OF_LIFE.as_secs());
            assert!(sign.unchanged && sign.stats.is_none());
            assert_eq!(sign.provenance, first.provenance);
        }
    }
}

/// Proves that a fresh watch outlives a short absence of the speed layer without a word that would be a guess, and ends with
/// UNAVAILABLE and when to try again after ten seconds of it.
#[tokio::test(start_paused = true)]
async fn speed_layer_away() {
    let mut fixture = InProcess::new(&[60], 100).await;
    let mut stream = watch(&mut fixture, watching(Consistency::Fresh)).await;
    next(&mut stream).await.unwrap();
    fixture.speed().down = true;
    assert!(timeout(Duration::from_secs(9), stream.message()).await.is_err(), "nothing is known, and something was said");
    {
        let mut speed = fixture.speed();
        (speed.down, speed.head) = (false, 103);
    }
    assert_eq!(counted(&next(&mut stream).await.unwrap()), count(103));

    fixture.speed().down = true;
    let down = Instant::now();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!((status.code(), down.elapsed().as_secs()), (Code::Unavailable, 11));
    assert_eq!(status.get_details_error_info().unwrap().reason, "SPEED_LAYER_UNAVAILABLE");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    // Who comes while it is away is told at once.
    let refused = fixture.client.watch_user_stats(watching(Consistency::Fresh)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

/// Proves that a best-effort watch goes on without the speed layer, says that it is incomplete, and is complete again afterwards.
#[tokio::test(start_paused = true)]
async fn best_effort_goes_on() {
    let mut fixture = InProcess::new(&[60], 100).await;
    let mut stream = watch(&mut fixture, watching(Consistency::BestEffort)).await;
    let mut seen = Vec::new();
    for (down, head) in [(false, 100), (true, 100), (false, 100), (true, 103), (false, 103)] {
        {
            let mut speed = fixture.speed();
            (speed.down, speed.head) = (down, head);
        }
        let answer = next(&mut stream).await.unwrap();
        seen.push((answer.provenance.as_ref().unwrap().complete, counted(&answer)));
    }
    let batch = count(60);
    assert_eq!(seen, [(true, count(100)), (false, batch), (true, count(100)), (false, batch), (true, count(103))]);
}
