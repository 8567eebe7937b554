//! The default events: TPC-H orders by customer, as `tpchgen` makes them, and two of somebody who is new.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tpchgen::generators::OrderGenerator;

/// Fixed, so that every demo of one scale shows the same figures.
const SEED: u64 = 7;
/// An order arrives up to so many days after its date: rows are late by weeks, and yet the newest come last.
const MOST_DAYS_LATE: i32 = 30;
/// The last lines: every TPC-H customer has been ordering for years, and a newcomer's answer is all live.
const NEWCOMER: &str = r#"{"event_id":"first","user_id":"newcomer","event_time":"1998-08-02T09:30:00Z","event_type":"O","amount":"19.90"}
{"event_id":"second","user_id":"newcomer","event_time":"1998-08-02T09:45:00Z","event_type":"O","amount":"5.05"}
"#;

/// Writes the orders of `scale` (1 is 1.5 million) to `path`, one event a line, in the order in which they arrive.
pub(crate) fn write(path: &Path, scale: f64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(SEED);
    let orders = OrderGenerator::new(scale, 1, 1);
    let mut arrivals: Vec<_> =
        orders.iter().map(|order| (order.o_orderdate.to_unix_epoch() + random.random_range(0..=MOST_DAYS_LATE), order)).collect();
    arrivals.sort_by_key(|(day, order)| (*day, order.o_orderkey));

    let mut file = BufWriter::new(File::create(path)?);
    for (_, order) in arrivals {
        writeln!(
            file,
            r#"{{"event_id":"{}","user_id":"{}","event_time":"{}T00:00:00Z","event_type":"{}","amount":"{}","attributes":{{"priority":"{}","clerk":"{}"}}}}"#,
            order.o_orderkey,
            order.o_custkey,
            order.o_orderdate,
            order.o_orderstatus,
            order.o_totalprice,
            order.o_orderpriority,
            order.o_clerk,
        )?;
    }
    file.write_all(NEWCOMER.as_bytes())?;
    file.flush()
}
