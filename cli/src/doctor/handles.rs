//! How many files and connections may be open at once.

use super::finding::Report;

const CHECK: &str = "files";
/// Connections alone may be a thousand.
const ENOUGH: u64 = 4096;
/// Fewer do not hold the segments of a log and a few views.
const LEAST: u64 = 256;

pub(super) fn check(report: &mut Report) {
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return };
    judge(open_files(&limits), report);
}

fn judge(limit: Option<u64>, report: &mut Report) {
    let next = "raise it: `ulimit -n 65536`, or LimitNOFILE=65536 in the unit of a service";
    match limit {
        Some(limit) if limit < LEAST => report.bad(CHECK, format!("at most {limit} may be open"), next),
        Some(limit) if limit < ENOUGH => report.warn(CHECK, format!("at most {limit} may be open"), next),
        Some(limit) => report.good(CHECK, format!("{limit} may be open")),
        None => report.good(CHECK, "as many as there are may be open"),
    }
}

/// The limit that holds; none if there is none.
fn open_files(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    /// Proves that the limit which holds is read, and which limits are too low.
    #[test]
    fn limits() {
        assert_eq!(
            open_files("Limit  Soft  Hard\nMax open files            1024                 524288               files\n"),
            Some(1024)
        );
        assert_eq!(open_files("Max open files            unlimited            unlimited            files\n"), None);
        let mut report = Report::new("x");
        for limit in [Some(64), Some(1024), Some(65_536), None] {
            judge(limit, &mut report);
        }
        assert_eq!(report.of(CHECK).iter().map(|(mark, _)| *mark).collect::<Vec<_>>(), [Mark::Bad, Mark::Warning, Mark::Good, Mark::Good]);
    }
}
