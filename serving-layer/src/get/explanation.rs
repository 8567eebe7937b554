//! What an answer was made of, in a few lines below its table.

use std::fmt::Write;

use merganser_proto::v1::{Explanation, PartitionOffset, SliceContribution};
use prost_types::Duration;

/// Version, files and slices. Of the slices those that have something of the user.
pub(super) fn render(explanation: &Explanation, version: i64) -> String {
    let mut text = String::new();
    let Explanation { parent_version, run_id, late_duplicate_count, conflict_count, .. } = explanation;
    if version > 0 {
        let after = if *parent_version > 0 { format!(", after v{parent_version}") } else { String::new() };
        line(
            &mut text,
            format_args!(
                "v{version} by run {run_id}{after}; it removed {late_duplicate_count} late duplicates, {conflict_count} of them with other content"
            ),
        );
    }
    let (rows, blocks) = (counted(explanation.batch_row_count, "row"), counted(explanation.batch_block_count, "block"));
    line(&mut text, format_args!("batch: {rows} of states in {blocks}, {}", time(explanation.batch_duration.as_ref())));
    if let Some(PartitionOffset { partition, offset }) = &explanation.erased {
        line(&mut text, format_args!("  none of them count: the user was erased at offset {offset} of partition {partition}"));
    }
    for file in &explanation.files {
        line(&mut text, format_args!("  {}, which has {}", file.path, counted(file.row_count, "row")));
    }
    if explanation.speed.is_some() {
        let slices = match explanation.slices_missing_reason.as_str() {
            "" => counted(explanation.slices.len() as i64, "slice"),
            reason => format!("slices unknown: {reason}"),
        };
        line(&mut text, format_args!("speed: {slices}, {}", time(explanation.speed_duration.as_ref())));
    }
    for SliceContribution { partition, start_offset, end_offset, row_count, event_count } in &explanation.slices {
        if *row_count > 0 {
            let (events, rows) = (counted(*event_count, "event"), counted(*row_count, "row"));
            line(&mut text, format_args!("  partition {partition} [{start_offset}, {end_offset}): {events} in {rows} of states"));
        }
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A text takes whatever is written to it.
    let _written = writeln!(text, "{line}");
}

fn counted(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn time(duration: Option<&Duration>) -> String {
    duration.map_or_else(String::new, |duration| format!("{:.3} ms", millis(duration)))
}

/// A span of time in milliseconds.
pub(super) fn millis(duration: &Duration) -> f64 {
    duration.seconds as f64 * 1e3 + f64::from(duration.nanos) / 1e6
}
