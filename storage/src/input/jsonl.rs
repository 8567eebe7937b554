//! JSON Lines: one object a line; empty lines are no rows.

use std::io::{self, BufRead, Read};

use super::{DecodeError, Row, json};

/// Longer lines are skipped and rejected: no event that a server takes needs so much.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn rows(source: impl BufRead + Send) -> impl Iterator<Item = Result<Row, DecodeError>> + Send {
    let mut lines = Lines::new(source);
    std::iter::from_fn(move || {
        let next = lines.advance().map_err(DecodeError::from).transpose()?;
        Some(next.map(|line| Row { line: lines.line, event: line.and_then(|()| json::event(lines.text())) }))
    })
}

/// The lines of a file that are not empty.
pub(super) struct Lines<R> {
    source: R,
    /// The number of the line in `buffer`, from 1.
    pub(super) line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, line: 0, buffer: Vec::new() }
    }

    /// Goes to the next line, whose [`text`](Self::text) can be read unless there is a reason why not; `None` behind the last.
    pub(super) fn advance(&mut self) -> io::Result<Option<Result<(), String>>> {
        loop {
            self.buffer.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if (&mut self.source).take(limit).read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > MAX_LINE_BYTES && !self.buffer.ends_with(b"\n") {
                self.source.skip_until(b'\n')?;
                return Ok(Some(Err("the line is longer than 4 MiB".to_owned())));
            }
            if std::str::from_utf8(&self.buffer).is_err() {
                return Ok(Some(Err("not UTF-8".to_owned())));
            }
            if !self.text().is_empty() {
                return Ok(Some(Ok(())));
            }
        }
    }

    /// The line without the space around it.
    pub(super) fn text(&self) -> &str {
        let text = std::str::from_utf8(&self.buffer).unwrap_or_default();
        // Some editors put a byte order mark in front of the first line.
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        text.trim()
    }
}
