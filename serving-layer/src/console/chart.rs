//! Charts, as SVG that follows the page's colours: events by bucket with the two halves in two colours, where the halves meet in the log, and a
//! line of a rate. However much there is to draw, it is drawn in at most [`MAX_BARS`] bars, and the words beside say what one of them is.

use std::fmt::Write;

use maud::{Markup, html};

use super::words;

/// Bars of one chart: more would be thinner than a line.
const MAX_BARS: usize = 240;
/// The drawing's own units; it is stretched to the width of the page.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;
/// Least width of a bar, and least height of a half that has any event.
const LEAST: f64 = 2.0;
/// Part of its place that a bar leaves free, and its greatest width: two days are no two walls.
const GAP: f64 = 0.12;
const MOST: f64 = 40.0;

/// Events of one bucket, by half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) start_us: i64,
    pub(super) batch: i64,
    pub(super) speed: i64,
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bars {
    bars: Vec<Bar>,
    /// From the start of the first bucket to the end of the last.
    start_us: i64,
    end_us: i64,
    most: i64,
    /// Buckets with events.
    buckets: usize,
    /// Whether a bar may have more than one of them.
    are_grouped: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Bar {
    start_us: i64,
    end_us: i64,
    buckets: usize,
    batch: i64,
    speed: i64,
}

impl Bars {
    /// Of buckets, oldest first, of which the last one ends at `end_us`. None where there are none.
    pub(super) fn of(buckets: &[Bucket], end_us: i64) -> Option<Self> {
        let (first, last) = (buckets.first()?, buckets.last()?);
        let (start_us, end_us) = (first.start_us, end_us.max(last.start_us + 1));
        let width_us = (end_us - last.start_us).max(1);
        let span_us = end_us - start_us;
        let places = span_us.div_euclid(width_us);
        let are_grouped = places >= MAX_BARS as i64;
        let mut bars: Vec<Bar> = Vec::new();
        for bucket in buckets {
            let (from, to) = match are_grouped {
                false => (bucket.start_us, bucket.start_us + width_us),
                true => {
                    let edge = |bar: i128| start_us + (i128::from(span_us) * bar / MAX_BARS as i128) as i64;
                    let bar = i128::from(bucket.start_us - start_us) * MAX_BARS as i128 / i128::from(span_us);
                    (edge(bar), edge(bar + 1))
                }
            };
            match bars.last_mut().filter(|bar| bar.start_us == from) {
                Some(bar) => {
                    bar.batch += bucket.batch;
                    bar.speed += bucket.speed;
                    bar.buckets += 1;
                }
                None => bars.push(Bar { start_us: from, end_us: to, buckets: 1, batch: bucket.batch, speed: bucket.speed }),
            }
        }
        let most = bars.iter().map(|bar| bar.batch + bar.speed).max().unwrap_or(0);
        Some(Self { bars, start_us, end_us, most, buckets: buckets.len(), are_grouped })
    }

    /// The chart. `computed_us` is when the version was computed, which is marked if it is in the chart.
    pub(super) fn draw(&self, computed_us: Option<i64>) -> Markup {
        let marked = computed_us.filter(|at| (self.start_us..self.end_us).contains(at));
        let label = format!(
            "Events by bucket from {} to {}: at most {} in one bar. The table below has the numbers.",
            words::moment(self.start_us),
            words::moment(self.end_us),
            words::count(self.most)
        );
        html! {
            figure.chart {
                div.scale aria-hidden="true" { (words::counted(self.most, "event", "events")) }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                    line.grid x1="0" x2=(WIDTH) y1="0.5" y2="0.5" {}
                    line.grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
                    line.base x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                    @for bar in &self.bars { (self.bar(bar)) }
                    @if let Some(at) = marked { line.seam x1=(self.x(at)) x2=(self.x(at)) y1="0" y2=(HEIGHT) {} }
                }
                div.axis aria-hidden="true" {
                    span { (words::moment(self.start_us)) }
                    span { (words::moment(self.end_us)) }
                }
                figcaption {
                    span.key { span.swatch.batch {} "batch view" }
                    span.key { span.swatch.speed {} "live, since the boundary" }
                    @if let (Some(_), Some(at)) = (marked, computed_us) { span.key { span.swatch.seam {} "version computed " (words::moment(at)) } }
                    @if self.are_grouped {
                        span.key { "All " (words::count(self.buckets as i64)) " buckets are drawn, in " (self.bars.len()) " bars of about " (self.buckets_a_bar()) " each." }
                    }
                }
            }
        }
    }

    fn buckets_a_bar(&self) -> String {
        words::counted((self.buckets as f64 / self.bars.len().max(1) as f64).round().max(1.0) as i64, "bucket", "buckets")
    }

    fn bar(&self, bar: &Bar) -> Markup {
        let (left, right) = (self.x(bar.start_us), self.x(bar.end_us));
        let width = ((right - left) * (1.0 - GAP)).clamp(LEAST, MOST);
        let from = left + (right - left - width) / 2.0;
        let height = |count: i64| if count == 0 { 0.0 } else { (count as f64 / self.most.max(1) as f64 * (HEIGHT - 2.0)).max(LEAST) };
        let (batch, speed) = (height(bar.batch), height(bar.speed));
        let buckets = if bar.buckets > 1 { format!(" ({} buckets)", bar.buckets) } else { String::new() };
        let title =
            format!("{}{buckets}: {} batch, {} live", words::moment(bar.start_us), words::count(bar.batch), words::count(bar.speed));
        html! {
            g {
                title { (title) }
                // The whole place answers to the pointer.
                rect.hit x=(round(left)) y="0" width=(round((right - left).max(LEAST))) height=(HEIGHT) {}
                @if batch > 0.0 { rect.batch x=(round(from)) y=(round(HEIGHT - batch)) width=(round(width)) height=(round(batch)) {} }
                @if speed > 0.0 { rect.speed x=(round(from)) y=(round(HEIGHT - batch - speed)) width=(round(width)) height=(round(speed)) {} }
            }
        }
    }

    fn x(&self, time_us: i64) -> f64 {
        (time_us - self.start_us) as f64 / (self.end_us - self.start_us) as f64 * WIDTH
    }
}

/// Where the halves meet in one partition of the log: `[0, boundary)` and `[boundary, head)`.
pub(super) fn seam(partition: i32, boundary: i64, head: i64) -> Markup {
    const TALL: f64 = 14.0;
    // A half that has anything is seen, however small it is beside the other.
    let least = WIDTH * 0.015;
    let at = match (boundary, head - boundary) {
        (0, _) => 0.0,
        (_, ..=0) => WIDTH,
        _ => (boundary as f64 / head as f64 * WIDTH).clamp(least, WIDTH - least),
    };
    let label = format!(
        "Partition {partition} of the log: the batch view covers it up to offset {boundary}, the speed layer from there to {head}."
    );
    html! {
        figure.log {
            svg viewBox=(format!("0 0 {WIDTH} {TALL}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                @if at > 0.0 { rect.batch x="0" y="0" width=(round(at)) height=(TALL) {} }
                @if at < WIDTH { rect.speed x=(round(at)) y="0" width=(round(WIDTH - at)) height=(TALL) {} }
                line.seam x1=(round(at)) x2=(round(at)) y1="0" y2=(TALL) {}
            }
            div.axis aria-hidden="true" {
                span { "0" }
                span { "boundary " strong { (words::count(boundary)) } }
                span { "head " strong { (words::count(head)) } }
            }
        }
    }
}

/// A rate over the last `span_s` seconds: points of (seconds ago, rate), oldest first.
pub(super) fn line(points: &[(f64, f64)], span_s: f64, label: &str) -> Markup {
    const TALL: f64 = 120.0;
    let most = points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let place = |(ago, rate): &(f64, f64)| {
        let x = WIDTH * (1.0 - (ago / span_s).clamp(0.0, 1.0));
        let y = if most > 0.0 { TALL - 2.0 - rate / most * (TALL - 6.0) } else { TALL - 2.0 };
        (round(x), round(y))
    };
    let mut path = String::new();
    for (at, (x, y)) in points.iter().map(place).enumerate() {
        write!(path, "{}{x} {y}", if at == 0 { "M" } else { "L" }).expect("a string takes it");
    }
    let ends = (points.first().map(place), points.last().map(place));
    html! {
        figure.chart.rate {
            div.scale aria-hidden="true" { (words::rate(most)) " rows a second" }
            svg viewBox=(format!("0 0 {WIDTH} {TALL}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                line.grid x1="0" x2=(WIDTH) y1=(TALL / 2.0) y2=(TALL / 2.0) {}
                line.base x1="0" x2=(WIDTH) y1=(TALL) y2=(TALL) {}
                @if let (Some((left, _)), Some((right, _))) = ends {
                    path.area d=(format!("{path}L{right} {TALL}L{left} {TALL}Z")) {}
                    path.line d=(path) {}
                }
            }
            div.axis aria-hidden="true" { span { "10 min ago" } span { "now" } }
        }
    }
}

/// Two digits behind the point are finer than any screen.
fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: i64 = 86_400_000_000;

    fn day(day: i64, batch: i64, speed: i64) -> Bucket {
        Bucket { start_us: day * DAY_US, batch, speed }
    }

    /// Proves that each bucket is drawn in its place where there is room, and that a half with few events is seen beside one with many.
    #[test]
    fn a_bar_each() {
        assert_eq!(Bars::of(&[], 0), None);
        let bars = Bars::of(&[day(0, 1_000_000, 1), day(3, 0, 2)], 4 * DAY_US).unwrap();
        assert!(!bars.are_grouped);
        assert_eq!(
            bars.bars.iter().map(|bar| (bar.start_us / DAY_US, bar.batch, bar.speed)).collect::<Vec<_>>(),
            [(0, 1_000_000, 1), (3, 0, 2)]
        );
        let svg = bars.draw(Some(DAY_US)).into_string();
        assert!(svg.contains(r#"<rect class="speed" x="855" y="198" width="40" height="2">"#), "{svg}");
        assert!(svg.contains(r#"<line class="seam" x1="250""#) && svg.contains("1970-01-01: 1,000,000 batch, 1 live"), "{svg}");
        assert!(!bars.draw(Some(9 * DAY_US)).into_string().contains("class=\"seam\""));
    }

    /// Proves that of ten thousand buckets none is left out: they share bars, at most so many, and it is said.
    #[test]
    fn ten_thousand_buckets() {
        let buckets: Vec<_> = (0..10_000).map(|n| day(n, 2, n % 2)).collect();
        let bars = Bars::of(&buckets, 10_000 * DAY_US).unwrap();
        assert!(bars.are_grouped && bars.bars.len() == MAX_BARS);
        assert_eq!(
            bars.bars.iter().map(|bar| (bar.batch, bar.speed, bar.buckets)).fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2)),
            (20_000, 5_000, 10_000)
        );
        let svg = bars.draw(None).into_string();
        assert!(svg.contains("All 10,000 buckets are drawn, in 240 bars of about 42 buckets each."), "{svg}");
        assert_eq!(svg.matches("<g>").count(), MAX_BARS);
        assert!(svg.len() < 200_000, "{} bytes", svg.len());
    }

    /// Proves that buckets at both ends of time, and the shortest ones, make no bar outside the drawing.
    #[test]
    fn ends_of_time() {
        let (first, last) = (-2_208_988_800_000_000, 7_258_118_400_000_000);
        for buckets in [vec![first, last], vec![0, 1], vec![last]] {
            let buckets: Vec<_> = buckets.into_iter().map(|start_us| Bucket { start_us, batch: i64::MAX / 4, speed: 1 }).collect();
            let bars = Bars::of(&buckets, buckets.last().unwrap().start_us + 1).unwrap();
            assert!(bars.bars.len() <= MAX_BARS && bars.bars.iter().all(|bar| (0.0..=WIDTH + 1e-6).contains(&bars.x(bar.start_us))));
        }
    }

    /// Proves that the seam stands where the boundary is, and at an end only if a half is empty.
    #[test]
    fn where_halves_meet() {
        let at = |boundary, head| seam(2, boundary, head).into_string();
        assert!(at(500, 1000).contains(r#"x1="500""#));
        assert!(at(999_999, 1_000_000).contains(r#"x1="985""#));
        assert!(at(0, 10).contains(r#"x1="0""#) && !at(0, 10).contains("rect class=\"batch\""));
        assert!(at(10, 10).contains(r#"x1="1000""#) && !at(10, 10).contains("rect class=\"speed\""));
    }
}
