//! The log against a plain `Vec`.

use std::ops::Range;

use proptest::prelude::*;

use super::{fresh, open};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>),
    Roll,
    Reopen,
    Trim(usize),
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => prop::collection::vec(payload, 0..6).prop_map(Step::Append),
        2 => Just(Step::Roll),
        1 => Just(Step::Reopen),
        1 => (0..60_usize).prop_map(Step::Trim),
        3 => (0..60_usize, 0..60_usize).prop_map(|(a, b)| Step::Read(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_is_a_list(steps in prop::collection::vec(step(), 1..40)) {
        // Proves that any order of appends, rolls, trims and restarts keeps every record at its offset and
        // every edge where it was set.
        let (disk, mut log) = fresh();
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mut closed: Vec<Range<i64>> = Vec::new();
        let mut first = 0;
        for step in steps {
            let head = records.len() as i64;
            let base = closed.last().map_or(first, |range| range.end);
            match step {
                Step::Append(batch) => {
                    let range = log.append(batch.iter().map(Vec::as_slice)).unwrap();
                    prop_assert_eq!(range, head..head + batch.len() as i64);
                    records.extend(batch);
                }
                Step::Roll => {
                    let expected = (head > base).then_some(base..head);
                    prop_assert_eq!(log.roll().unwrap(), expected.clone());
                    closed.extend(expected);
                }
                Step::Reopen => {
                    drop(log);
                    log = open(&disk).unwrap();
                }
                Step::Trim(below) => {
                    let gone = closed.iter().filter(|range| range.end <= below as i64).count();
                    prop_assert_eq!(log.trim(below as i64).unwrap(), closed[..gone].to_vec());
                    first = closed[..gone].last().map_or(first, |range| range.end);
                    closed.drain(..gone);
                }
                Step::Read(a, b) => {
                    let within = |offset: usize| offset.clamp(first as usize, records.len());
                    let (start, end) = (within(a.min(b)), within(a.max(b)));
                    let found = log.reader().read(start as i64..end as i64).unwrap();
                    let found = found.collect::<Result<Vec<_>, _>>().unwrap();
                    prop_assert!(found.iter().map(|record| record.offset).eq(start as i64..end as i64));
                    prop_assert!(found.iter().map(|record| &record.payload).eq(&records[start..end]));
                }
            }
            prop_assert_eq!(log.head(), records.len() as i64);
            prop_assert_eq!(log.reader().start(), first);
            prop_assert_eq!(log.sealed(), closed.clone());
            prop_assert_eq!(log.active_base(), closed.last().map_or(first, |range| range.end));
        }
    }
}
