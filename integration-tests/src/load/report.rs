//! The outcome of a run: rows on the terminal, `report.json`, `latency.hlog` (HdrHistogram's interval log, for its own viewers),
//! `report.html` with the latency over the rate, and the tables of a document.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;

use super::tally::{Figures, Tally};

/// A row of calls.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which part of the run.
    pub section: String,
    /// What was called.
    pub what: String,
    /// Calls in flight, or the rate that was aimed at.
    pub load: String,
    /// Calls a second that were aimed at; none in the closed loop.
    pub target_per_second: Option<f64>,
    /// What came of it.
    pub figures: Figures,
    /// How fast it is beside its limit in the same run, which has 1.
    pub ratio: Option<f64>,
    /// What else is to be known of it.
    pub note: String,
    #[serde(skip)]
    latency_us: Option<Histogram<u64>>,
}

impl Row {
    /// A row of `section`, of calls with `items` users or events each.
    #[must_use]
    pub fn new(section: &str, what: impl Into<String>, load: impl Into<String>, (tally, seconds): (Tally, f64), items: u64) -> Self {
        Self {
            section: section.to_owned(),
            what: what.into(),
            load: load.into(),
            target_per_second: None,
            figures: tally.figures(seconds, items),
            ratio: None,
            note: tally.complaints.join("; "),
            latency_us: Some(tally.latency_us),
        }
    }

    /// Beside a limit.
    #[must_use]
    pub fn beside(mut self, limit: &Figures) -> Self {
        self.ratio = Some(self.figures.items_per_second / limit.items_per_second.max(f64::MIN_POSITIVE));
        self
    }

    /// Of the open loop, at so many calls a second.
    #[must_use]
    pub fn aimed_at(mut self, per_second: f64) -> Self {
        self.target_per_second = Some(per_second);
        self
    }

    /// With a remark.
    #[must_use]
    pub fn noted(mut self, note: &str) -> Self {
        self.note = [self.note.as_str(), note].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join("; ");
        self
    }

    fn failed(&self) -> String {
        let errors: Vec<String> = self.figures.errors.iter().map(|(code, count)| format!("{count} {code}")).collect();
        if errors.is_empty() { "0".to_owned() } else { errors.join(", ") }
    }
}

/// Everything of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name and value: machine, versions, command, sizes.
    pub environment: Vec<(String, String)>,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
    /// The highest rate that was kept up, calls a second.
    pub knee_per_second: f64,
}

impl Report {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(environment: Vec<(String, String)>) -> Self {
        Self { environment, rows: Vec::new(), knee_per_second: 0.0 }
    }

    /// Adds a row and prints it.
    #[allow(clippy::print_stdout, reason = "this is what a load test is for")]
    pub fn add(&mut self, row: Row) {
        if self.rows.last().is_none_or(|last| last.section != row.section) {
            println!("\n{}\n{}", row.section, COLUMNS.iter().map(|(name, width)| format!("{name:>width$}")).collect::<Vec<_>>().join(" "));
        }
        println!("{}", cells(&row).iter().zip(COLUMNS).map(|(cell, (_, width))| format!("{cell:>width$}")).collect::<Vec<_>>().join(" "));
        self.rows.push(row);
    }

    /// Answers that were not right.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        self.rows.iter().map(|row| row.figures.wrong).sum()
    }

    /// Writes every file of the report into a folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(self)?)?;
        std::fs::write(folder.join("report.html"), self.page())?;
        self.write_histograms(&folder.join("latency.hlog"))
    }

    fn write_histograms(&self, path: &Path) -> Result<()> {
        let (mut file, mut serializer) = (File::create(path)?, V2DeflateSerializer::new());
        let mut log = IntervalLogWriterBuilder::new()
            .with_start_time(SystemTime::now())
            .with_max_value_divisor(1.0)
            .begin_log_with(&mut file, &mut serializer)?;
        let mut start = Duration::ZERO;
        for row in &self.rows {
            let length = Duration::from_secs_f64(row.figures.seconds);
            let name: String = format!("{}/{}/{}", row.section, row.what, row.load)
                .chars()
                .map(|c| if c.is_whitespace() || c == ',' { '_' } else { c })
                .collect();
            if let (Some(latency), Some(tag)) = (&row.latency_us, Tag::new(&name)) {
                log.write_histogram(latency, start, length, Some(tag)).map_err(|e| anyhow::anyhow!("{e:?}"))?;
            }
            start += length;
        }
        Ok(())
    }

    /// The tables in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.environment {
            let _written = writeln!(text, "- {name}: {value}");
        }
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = &row.section;
                let names = COLUMNS.map(|(name, _)| name).join(" | ");
                let _written = writeln!(text, "\n**{section}**\n\n| {names} |\n|{}", "---|".repeat(COLUMNS.len()));
            }
            let _written = writeln!(text, "| {} |", cells(row).join(" | "));
        }
        text
    }

    fn page(&self) -> String {
        let rows = |section: &str| {
            let of_section = self.rows.iter().filter(|row| row.section == section);
            of_section
                .map(|row| format!("<tr><td>{}</td></tr>", cells(row).map(|cell| escaped(&cell)).join("</td><td>")))
                .collect::<String>()
        };
        let mut sections: Vec<&str> = self.rows.iter().map(|row| row.section.as_str()).collect();
        sections.dedup();
        let head = COLUMNS.map(|(name, _)| name).join("</th><th>");
        let tables =
            sections.iter().map(|section| format!("<h2>{}</h2><table><tr><th>{head}</th></tr>{}</table>", escaped(section), rows(section)));
        let environment = self.environment.iter().map(|(name, value)| format!("<li>{}: {}</li>", escaped(name), escaped(value)));
        format!(
            "<!doctype html><meta charset=utf-8><title>Merganser under load</title><style>{STYLE}</style><h1>Merganser under load</h1>\
             <ul>{}</ul>{}{}",
            environment.collect::<String>(),
            plot(&self.rows),
            tables.collect::<String>()
        )
    }
}

const COLUMNS: [(&str, usize); 11] = [
    ("what", 30),
    ("load", 16),
    ("calls/s", 9),
    ("items/s", 9),
    ("of limit", 8),
    ("p50 ms", 8),
    ("p90 ms", 8),
    ("p99 ms", 8),
    ("p99.9 ms", 8),
    ("failed", 8),
    ("checked, wrong", 14),
];

const STYLE: &str = "body{font:14px system-ui;margin:2em auto;max-width:70em;padding:0 1em}table{border-collapse:collapse}\
td,th{padding:.2em .6em;text-align:right;border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}\
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}";

fn cells(row: &Row) -> [String; 11] {
    let figures = &row.figures;
    let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
    [
        row.what.clone(),
        row.load.clone(),
        format!("{:.0}", figures.per_second),
        format!("{:.0}", figures.items_per_second),
        row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        ms(figures.p50_us),
        ms(figures.p90_us),
        ms(figures.p99_us),
        ms(figures.p999_us),
        row.failed() + &if figures.skipped > 0 { format!(", {} skipped", figures.skipped) } else { String::new() },
        format!("{}, {}{}", figures.checked, figures.wrong, if row.note.is_empty() { String::new() } else { format!("  ({})", row.note) }),
    ]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Latency over the rate, both from the rows of the open loop: a line for what was measured at each percentile.
fn plot(rows: &[Row]) -> String {
    let ladder: Vec<&Row> = rows.iter().filter(|row| row.target_per_second.is_some() && row.section.starts_with("ladder")).collect();
    let most = |of: &dyn Fn(&Row) -> f64| ladder.iter().map(|row| of(row)).fold(1.0_f64, f64::max);
    let rate = |row: &Row| row.figures.per_second;
    let (width, height, left) = (640.0, 300.0, 60.0);
    let (most_rate, most_ms) = (most(&rate), most(&|row| row.figures.p99_us as f64 / 1000.0));
    let line = |name: &str, colour: &str, us: &dyn Fn(&Figures) -> u64| {
        // Milliseconds on a scale of logarithms: the knee is a matter of powers of ten.
        let y = |ms: f64| height - height * (ms.max(0.1) / 0.1).ln() / (most_ms.max(0.2) / 0.1).ln();
        let points: Vec<String> = ladder
            .iter()
            .map(|row| format!("{:.0},{:.0}", left + width * rate(row) / most_rate, y(us(&row.figures) as f64 / 1000.0)))
            .collect();
        let last = points.last().cloned().unwrap_or_default();
        let (x, y) = last.split_once(',').unwrap_or(("0", "0"));
        format!(
            "<polyline points='{}' fill=none stroke={colour} stroke-width=2 /><text x={x} y={y} fill={colour}>{name}</text>",
            points.join(" ")
        )
    };
    if ladder.len() < 2 {
        return String::new();
    }
    format!(
        "<h2>Latency over the rate</h2><svg viewBox='0 -10 {} {}' width=100% fill=currentColor><text x=0 y=10>{most_ms:.0} ms</text>\
         <text x=0 y={height}>0.1 ms</text><text x={left} y={}>0</text><text x={} y={}>{most_rate:.0}/s</text>{}{}{}</svg>",
        width + left + 60.0,
        height + 40.0,
        height + 20.0,
        width,
        height + 20.0,
        line("p50", "#2a7", &|figures| figures.p50_us),
        line("p99", "#c63", &|figures| figures.p99_us),
        line("p99.9", "#a3c", &|figures| figures.p999_us),
    )
}

/// Puts `text` between the two marks of a document.
///
/// # Errors
/// It has no such marks, or cannot be written.
pub fn put_into(document: &Path, mark: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let (begin, end) = (format!("<!-- {mark}:begin -->"), format!("<!-- {mark}:end -->"));
    let between = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = between.with_context(|| format!("{} has no {begin} and {end}", document.display()))?;
    std::fs::write(document, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    Ok(())
}
