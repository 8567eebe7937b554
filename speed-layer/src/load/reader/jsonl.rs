//! JSON Lines: one object a line; empty lines are no rows.

use std::io::{self, BufRead, Read};

use super::{DecodeError, Row, json};

/// Longer lines are skipped and rejected: no event that a server takes needs so much.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn rows(source: impl BufRead + Send) -> impl Iterator<Item = Result<Row, DecodeError>> + Send {
    let mut lines = Lines { source, line: 0, buffer: Vec::new() };
    std::iter::from_fn(move || lines.next_row().map_err(DecodeError::from).transpose())
}

struct Lines<R> {
    source: R,
    /// The number of the line in `buffer`, from 1.
    line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        loop {
            self.buffer.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if (&mut self.source).take(limit).read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > MAX_LINE_BYTES && !self.buffer.ends_with(b"\n") {
                self.source.skip_until(b'\n')?;
                return Ok(Some(Row { line: self.line, event: Err("the line is longer than 4 MiB".to_owned()) }));
            }
            if let Some(event) = self.event() {
                return Ok(Some(Row { line: self.line, event }));
            }
        }
    }

    /// The event on the line; none when it is empty.
    fn event(&self) -> Option<Result<merganser_proto::v1::Event, String>> {
        let Ok(text) = std::str::from_utf8(&self.buffer) else {
            return Some(Err("not UTF-8".to_owned()));
        };
        // Some editors put a byte order mark in front of the first line.
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim();
        if text.is_empty() { None } else { Some(json::event(text)) }
    }
}
