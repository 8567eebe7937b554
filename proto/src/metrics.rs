//! Numbers for Prometheus, as both servers have them.
//!
//! What happens often is an atomic that is added to; what there is already is read when somebody asks. Both are written to a
//! `Sheet` at each scrape, in OpenMetrics text. The encoder is `prometheus-client`, that of the Prometheus project: it takes
//! values from wherever they lie, where `metrics` with its exporter would hold them in a registry of its own and a thread to tidy its
//! histograms. Its histogram takes a lock for each observation, so `Durations` stands in for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets of [`Durations`], in nanoseconds: from a fast sync to a call that is given up.
const BOUNDS_NS: [u64; 14] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// Label names and values of one sample. Values come from a set that the code or an operator bounds, never from whoever calls.
pub type Labels = Vec<(&'static str, String)>;

/// How long something took, each time. To observe one costs two atomic adds. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// The last one is for all that took longer.
    counts: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What they have come to by now.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Spread { bounds_seconds: BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9).collect(), counts }
    }

    fn write(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// How [`Durations`] are spread, as they were at one moment or between two.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// Upper bounds of the buckets, inclusive, ascending.
    pub bounds_seconds: Vec<f64>,
    /// How many are in each bucket; the one after the last bound has all that took longer.
    pub counts: Vec<u64>,
}

impl Spread {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those that came after `earlier`, of the same process; all of them where that has other buckets or larger counts, for then it is
    /// another process.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let same = self.bounds_seconds == earlier.bounds_seconds && self.counts.len() == earlier.counts.len();
        let counts: Option<Vec<u64>> =
            if same { self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.checked_sub(*then)).collect() } else { None };
        counts.map_or_else(|| self.clone(), |counts| Self { bounds_seconds: self.bounds_seconds.clone(), counts })
    }

    /// The duration in seconds that the part `q` of them is at or below, from 0 to 1: within its bucket as if they were spread evenly, as
    /// Prometheus' `histogram_quantile`. None where there are none; the last bound where it is above that.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in self.bounds_seconds.iter().zip(&self.counts) {
            let here = *count as f64;
            if here > 0.0 && below + here >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / here).clamp(0.0, 1.0));
            }
            (below, lower) = (below + here, *bound);
        }
        (self.count() > 0).then_some(lower)
    }
}

/// Whoever has numbers to tell.
pub trait Numbers: Send + Sync + 'static {
    /// Writes all of them. It may block, on disks for instance.
    ///
    /// # Errors
    /// The sheet's.
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result;
}

/// What a scrape gets. Every metric has its name and type on it, whether or not it has samples yet.
pub struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    /// A number that only grows while the process lives. `name` is without the `_total` that its samples have.
    ///
    /// # Errors
    /// The text cannot be written.
    pub fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        self.samples(name, help, MetricType::Counter, samples, |metric, count| metric.encode_counter::<NoLabelSet, u64, f64>(&count, None))
    }

    /// A number as it is now.
    ///
    /// # Errors
    /// The text cannot be written.
    pub fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.samples(name, help, MetricType::Gauge, samples, |metric, value| metric.encode_gauge(&value))
    }

    /// Durations, as a histogram in seconds.
    ///
    /// # Errors
    /// The text cannot be written.
    pub fn durations(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, Durations)>) -> fmt::Result {
        self.samples(name, help, MetricType::Histogram, samples, |metric, durations| durations.write(metric))
    }

    fn samples<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            // An empty set of labels would be written as one.
            match labels.is_empty() {
                true => write(&mut metric, value)?,
                false => write(&mut metric.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }
}

/// A number without labels.
pub fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

/// All numbers as OpenMetrics text. Gauges read the same in the older Prometheus text format.
///
/// # Errors
/// The numbers'.
pub fn text(numbers: &Arc<dyn Numbers>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(All(Arc::clone(numbers))));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct All(Arc<dyn Numbers>);

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("All")
    }
}

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Sheet(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a quantile is in the bucket that has it, that what came before is not counted, and that nothing is no duration.
    #[test]
    fn quantiles() {
        let durations = Durations::default();
        assert_eq!(durations.spread().quantile(0.5), None);
        durations.observe(Duration::from_secs(60));
        let before = durations.spread();
        assert_eq!(before.quantile(0.99), Some(5.0));
        (0..98).for_each(|_| durations.observe(Duration::from_micros(900)));
        (0..2).for_each(|_| durations.observe(Duration::from_millis(40)));
        let since = durations.spread().since(&before);
        assert_eq!(since.count(), 100);
        let within = |q: f64, low: f64, high: f64| since.quantile(q).is_some_and(|seconds| low <= seconds && seconds <= high);
        assert!(within(0.5, 0.0005, 0.001) && within(0.98, 0.0005, 0.001) && within(0.99, 0.025, 0.05), "{since:?}");
        // Another process has begun to count anew.
        assert_eq!(before.since(&since).count(), 1);
    }

    struct Some3(Durations);

    impl Numbers for Some3 {
        fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
            sheet.counter("a_rows", "Rows.", [(vec![("kind", "x\"y\n".to_owned())], 7)])?;
            sheet.gauge("a_level", "Level.", one(0.5))?;
            sheet.gauge("a_nothing", "No samples.", [])?;
            sheet.durations("a_seconds", "Time.", one(self.0.clone()))
        }
    }

    /// Proves that every duration is in the bucket whose bound is the first at or above it, and what a scrape looks like, to the byte.
    #[test]
    fn as_text() {
        let durations = Durations::default();
        for us in [100, 101, 2_500, 60_000_000] {
            durations.observe(Duration::from_micros(us));
        }
        assert_eq!(durations.count(), 4);
        let numbers: Arc<dyn Numbers> = Arc::new(Some3(durations));
        let text = text(&numbers).expect("it is written to a string");
        let head = "# HELP a_rows Rows.\n# TYPE a_rows counter\na_rows_total{kind=\"x\\\"y\\n\"} 7\n\
             # HELP a_level Level.\n# TYPE a_level gauge\na_level 0.5\n\
             # HELP a_nothing No samples.\n# TYPE a_nothing gauge\n\
             # HELP a_seconds Time.\n# TYPE a_seconds histogram\na_seconds_sum 60.002701\na_seconds_count 4\n\
             a_seconds_bucket{le=\"0.0001\"} 1\na_seconds_bucket{le=\"0.00025\"} 2\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("a_seconds_bucket{le=\"0.0025\"} 3\n"), "{text}");
        assert!(text.ends_with("a_seconds_bucket{le=\"5.0\"} 3\na_seconds_bucket{le=\"+Inf\"} 4\n# EOF\n"), "{text}");
    }
}
