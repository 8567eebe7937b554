use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn nightly(zone: Tz) -> Timetable {
    Timetable { cron: Some((cron("30 2 * * *").unwrap(), zone)), every: None, new_bytes: None }
}

fn full(began: &str) -> Done {
    Done { full: Some(at(began)), any: Some(at(began)) }
}

/// Proves that a nightly run is due at its time in the place's clock and not again that night, through both clock changes: a time that
/// the clock jumps over comes when it jumps, one that is shown twice comes once.
#[test]
fn nights_with_a_clock_change() {
    let timetable = nightly(chrono_tz::Europe::Berlin);
    for (case, before, time) in [
        ("winter", "2026-01-14T01:30:00Z", "2026-01-15T01:30:00Z"),
        ("summer", "2026-07-14T00:30:00Z", "2026-07-15T00:30:00Z"),
        ("2:30 is jumped over", "2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z"),
        ("the night after", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
        ("2:30 is shown twice", "2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z"),
        ("the night after that", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
    ] {
        let time = at(time);
        let second = Duration::from_secs(1);
        assert_eq!(timetable.due(time - second, full(before), 0), None, "{case}, a second early");
        assert_eq!(timetable.due(time, full(before), 0), Some(Due::Full), "{case}");
        let mut done = full(before);
        done.note(Due::Full, time);
        for hours in 1..22 {
            assert_eq!(timetable.due(time + Duration::from_secs(3600 * hours), done, 0), None, "{case}, {hours} h later");
        }
    }
}

/// Proves that runs that were missed are due once, however many they are, and that what began before its time does not count for it.
#[test]
fn missed_runs() {
    let timetable = nightly(Tz::UTC);
    let now = at("2026-11-22T10:00:00Z");
    assert_eq!(timetable.due(now, Done::default(), 0), Some(Due::Full));
    let mut done = full("2026-11-10T02:30:05Z");
    assert_eq!(timetable.due(now, done, 0), Some(Due::Full));
    done.note(Due::Full, now);
    assert_eq!(timetable.due(now, done, 0), None);
    assert_eq!(timetable.due(now, full("2026-11-22T02:29:59Z"), 0), Some(Due::Full));
    assert_eq!(timetable.due(now, full("2026-11-22T02:30:00Z"), 0), None);
    assert_eq!(timetable.next_of_cron(now).unwrap().to_utc(), at("2026-11-23T02:30:00Z"));
}

/// Proves that an incremental run is due after the pause and when there is enough new data, that a full run goes before and counts as
/// one, and that a clock that was set back does not stop the runs.
#[test]
fn between_the_nights() {
    let timetable = Timetable { every: Some(Duration::from_secs(900)), new_bytes: Some(1000), ..nightly(Tz::UTC) };
    let done = Done { full: Some(at("2026-11-22T02:30:00Z")), any: Some(at("2026-11-22T10:00:00Z")) };
    assert_eq!(timetable.due(at("2026-11-22T10:14:59Z"), done, 999), None);
    assert_eq!(timetable.due(at("2026-11-22T10:15:00Z"), done, 0), Some(Due::Incremental));
    assert_eq!(timetable.due(at("2026-11-22T10:00:01Z"), done, 1000), Some(Due::Incremental));
    assert_eq!(timetable.due(at("2026-11-23T02:30:00Z"), done, 1000), Some(Due::Full));
    let set_back = Done { any: Some(at("2026-11-22T12:00:00Z")), ..done };
    assert_eq!(timetable.due(at("2026-11-22T10:00:00Z"), set_back, 0), Some(Due::Incremental));
    let mut done = Done::default();
    done.note(Due::Incremental, at("2026-11-22T10:00:00Z"));
    assert_eq!(done.full, None);
}

/// Proves that what is no cron expression is refused with what was written.
#[test]
fn expressions() {
    for wrong in ["", "2", "61 2 * * *", "0 2 * * * * * *", "0 0 31 2 *"] {
        assert!(cron(wrong).unwrap_err().contains(&format!("\"{wrong}\"")), "{wrong}");
    }
    assert!(cron("*/15 * * * MON-FRI").is_ok());
}
