//! Every row of the master dataset is in the view, or its report says why not.

use super::*;
use crate::Rows;

const SALES: &str = "-- keep: 48h
    SELECT user_id, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
    FROM events WHERE amount > 0.3 GROUP BY user_id, date_trunc('day', event_time)";

/// Events of each day up to `days`, a tenth of them twice and one of those with another content.
fn events(seed: u64, count: usize, days: i64) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut events: Vec<Event> = (0..count)
        .map(|i| event(&format!("user-{}", i % 9), &format!("s{seed}-{i}"), random.random_range(0..days), random.random_range(0..9999)))
        .collect();
    events.extend_from_within(0..count / 10);
    events.last_mut().unwrap().event_type = "other".to_owned();
    events
}

/// What became of them, by the plainest means: counted, repeated, conflicting, filtered, past the limit.
fn plain(events: &[Event], from_day: i64) -> [i64; 5] {
    let mut seen: BTreeMap<_, &Event> = BTreeMap::new();
    let mut rows = [0; 5];
    for event in events {
        let identity = (&event.user_id, &event.event_id);
        rows[match seen.get(&identity) {
            Some(first) if *first == event => 1,
            Some(_) => 2,
            None if event.amount.unwrap() <= 3000 => 3,
            None if event.event_time_us < from_day * DAY_US => 4,
            None => 0,
        }] += 1;
        seen.entry(identity).or_insert(event);
    }
    rows
}

fn terms(rows: &Rows) -> [i64; 5] {
    [rows.counted, rows.late_duplicates, rows.conflicts, rows.filtered, rows.past_limit]
}

/// Proves that the report of a run says where every row of log and imports went, by the plainest count of each, that an incremental run
/// has the same totals, and that corrections are those that are new, on the terminal too.
#[tokio::test]
async fn every_row_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sales.sql"), SALES).unwrap();
    let (history, live, later) = (events(1, 60, 5), events(2, 300, 5), events(3, 90, 6));
    let mut master = Master::new(schema());
    master.append_time_us = 5 * DAY_US;
    master.import(&history).await;
    master.append(&live).await;
    let options = RunOptions { view: "sales".parse().unwrap(), views_dir: folder.path().to_owned(), ..master.options() };
    let first = master.publish(&options).await;
    let all: Vec<_> = history.iter().chain(&live).cloned().collect();
    let expected = plain(&all, 3);
    assert!(expected.iter().all(|rows| *rows > 0), "{expected:?}");
    assert_eq!((terms(&first.rows), first.rows.left_out_before), (expected, 0));
    assert_eq!((first.rows.log, first.rows.segments, first.rows.imports), (live.len() as i64, live.len() as i64, history.len() as i64));
    assert_eq!(first.correction_count, expected[1] + expected[2]);

    master.append_time_us += DAY_US;
    master.append(&later).await;
    let second = master.publish(&RunOptions { incremental: true, ..options.clone() }).await;
    assert_eq!((second.built_upon, second.correction_count), (Some(1), (later.len() - 90) as i64));
    assert_eq!(second.corrections.len() as i64, second.correction_count);
    assert_eq!(second.corrections.iter().filter(|removed| removed.is_conflict).count(), 1);
    let listed = second.corrections.iter().find(|removed| !removed.is_conflict).unwrap().to_string();
    assert!(
        second.to_string().contains(&format!("corrected   {}", second.corrections[0])) && listed.contains("counts, offset"),
        "{second}"
    );
    let all: Vec<_> = all.into_iter().chain(later.iter().cloned()).collect();
    let expected = plain(&all, 4);
    let [counted, late, conflicts, ..] = terms(&second.rows);
    assert_eq!([counted, late, conflicts], expected[..3]);
    assert_eq!(second.rows.left_out_before, first.rows.filtered + first.rows.past_limit);
    assert_eq!(second.rows.filtered + second.rows.past_limit + second.rows.left_out_before, expected[3] + expected[4]);
    assert_eq!(second.rows.log + second.rows.imports, all.len() as i64);

    let third = master.publish(&RunOptions { force: true, ..options }).await;
    assert_eq!((terms(&third.rows), third.correction_count), (expected, 0));
    assert!(third.to_string().contains(&format!("rows        {}", third.rows)), "{third}");
    let stored = master.store.get(&format!("runs/sales/{}.json", third.run_id).into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<RunReport>(&stored).unwrap().rows, third.rows);
}

/// Proves that one row more or less in any term does not reconcile, and that a view that leaves nothing out has no row unaccounted for.
#[test]
fn one_row_off() {
    let fine = Rows {
        log: 104,
        segments: 90,
        erasures: 2,
        gone: 7,
        expired: 5,
        imports: 10,
        counted: 77,
        late_duplicates: 6,
        conflicts: 1,
        erased: 3,
        filtered: 4,
        past_limit: 2,
        left_out_before: 9,
        left_out_and_gone: 2,
    };
    assert!(fine.reconcile(true) && fine.reconcile(false));
    let off: [fn(&mut Rows); 14] = [
        |rows| rows.log += 1,
        |rows| rows.segments -= 1,
        |rows| rows.erasures += 1,
        |rows| rows.gone -= 1,
        |rows| rows.erased += 1,
        |rows| rows.imports += 1,
        |rows| rows.counted -= 1,
        |rows| rows.late_duplicates += 1,
        |rows| rows.conflicts -= 1,
        |rows| rows.filtered += 1,
        |rows| rows.past_limit -= 1,
        |rows| rows.left_out_before += 1,
        |rows| rows.expired += 1,
        |rows| rows.left_out_and_gone -= 1,
    ];
    for change in off {
        let mut rows = fine.clone();
        change(&mut rows);
        assert!(!rows.reconcile(true), "{rows}");
    }
    // Nobody was erased: nothing is gone, and where nothing is left out nothing was before.
    let without = |gone, left_out_before| Rows {
        log: 90 + gone,
        erasures: 0,
        gone,
        expired: 0,
        left_out_before,
        left_out_and_gone: 0,
        counted: 84 - left_out_before,
        ..fine.clone()
    };
    assert!(without(0, 0).reconcile(false) && without(0, 7).reconcile(true));
    assert!(!without(0, 7).reconcile(false) && !without(7, 0).reconcile(true));
    assert_eq!(
        fine.to_string(),
        "104 in the log - 2 erasures - 7 erased and gone - 5 expired and gone, 90 in segments + 10 imported = 77 counted + 6 late duplicates + 1 conflicts + 3 erased + 4 left out by WHERE + 2 past the limit + 9 left out before - 2 of these expired and gone"
    );
}
