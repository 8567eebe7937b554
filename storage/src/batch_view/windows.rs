//! Sorted states read side by side, in windows: from each stream all rows of the same few keys, none of them held whole.

use std::cmp::Reverse;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

/// Batches of states in strictly ascending order of key and bucket.
pub type States<E> = BoxStream<'static, Result<RecordBatch, E>>;

/// Streams of one schema, read side by side.
pub struct Windows<E> {
    sides: Vec<Side<E>>,
    ended: bool,
}

impl<E> std::fmt::Debug for Windows<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows").field("sides", &self.sides.len()).finish_non_exhaustive()
    }
}

impl<E> Windows<E> {
    /// Over batches of `schema`.
    #[must_use]
    pub fn new(schema: &SchemaRef, streams: Vec<States<E>>) -> Self {
        let side = |stream| Side { held: RecordBatch::new_empty(SchemaRef::clone(schema)), rest: Some(stream) };
        Self { sides: streams.into_iter().map(side).collect(), ended: false }
    }

    /// For each stream, in their order, its rows of the next keys, which no later window has; `None` after the last.
    ///
    /// # Errors
    /// A stream's.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>, E> {
        if self.ended {
            return Ok(None);
        }
        for side in &mut self.sides {
            side.fill().await?;
        }
        let frontier = self.sides.iter().filter(|side| side.rest.is_some()).filter_map(Side::last_key).min().map(str::to_owned);
        let window = self.sides.iter_mut().map(|side| side.take_below(frontier.as_deref())).collect();
        match frontier {
            None => self.ended = true,
            Some(frontier) => {
                for side in &mut self.sides {
                    if side.last_key().is_some_and(|key| key <= frontier.as_str()) {
                        side.read_on().await?;
                    }
                }
            }
        }
        Ok(Some(window))
    }
}

/// A stream, read a little ahead.
struct Side<E> {
    held: RecordBatch,
    /// What is not read yet; `None` after the end.
    rest: Option<States<E>>,
}

impl<E> Side<E> {
    fn last_key(&self) -> Option<&str> {
        self.held.num_rows().checked_sub(1).map(|last| keys(&self.held).value(last))
    }

    /// Holds at least a row, or is at the end.
    async fn fill(&mut self) -> Result<(), E> {
        while self.held.num_rows() == 0 && self.rest.is_some() {
            self.read_on().await?;
        }
        Ok(())
    }

    async fn read_on(&mut self) -> Result<(), E> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        match rest.try_next().await? {
            Some(more) if self.held.num_rows() == 0 => self.held = more,
            Some(more) => self.held = concat_batches(&more.schema(), [&self.held, &more]).expect("one stream has one schema"),
            None => self.rest = None,
        }
        Ok(())
    }

    /// Hands on the rows of keys before `frontier`, or all.
    fn take_below(&mut self, frontier: Option<&str>) -> RecordBatch {
        let rows = match frontier {
            Some(frontier) => keys(&self.held).iter().take_while(|key| key.is_some_and(|key| key < frontier)).count(),
            None => self.held.num_rows(),
        };
        let taken = self.held.slice(0, rows);
        self.held = self.held.slice(rows, self.held.num_rows() - rows);
        taken
    }
}

/// One stream of what lies uppermost: a row of a later stream stands in the place of those of the same key and bucket in earlier ones.
#[must_use]
pub fn overlaid<E: Send + 'static>(schema: &SchemaRef, mut layers: Vec<States<E>>) -> States<E> {
    if layers.len() == 1 {
        return layers.remove(0);
    }
    let windows = Windows::new(schema, layers);
    let schema = SchemaRef::clone(schema);
    let next = |(mut windows, schema): (Windows<E>, SchemaRef)| async move {
        let Some(window) = windows.next().await? else { return Ok(None) };
        let rows = uppermost(&schema, &window);
        Ok(Some((rows, (windows, schema))))
    };
    stream::try_unfold((windows, schema), next).try_filter(|rows| std::future::ready(rows.num_rows() > 0)).boxed()
}

/// The rows of several batches in order of key and bucket; of rows with the same, that of the last batch.
pub(super) fn uppermost(schema: &SchemaRef, layers: &[RecordBatch]) -> RecordBatch {
    let mut filled = layers.iter().filter(|layer| layer.num_rows() > 0);
    match (filled.next(), filled.next()) {
        (None, _) => return RecordBatch::new_empty(SchemaRef::clone(schema)),
        (Some(only), None) => return only.clone(),
        _ => {}
    }
    let mut places = Vec::with_capacity(layers.iter().map(RecordBatch::num_rows).sum());
    for (layer, rows) in layers.iter().enumerate() {
        let (keys, buckets) = (keys(rows), rows.column(1).as_primitive::<TimestampMicrosecondType>());
        let bucket = |row| buckets.is_valid(row).then(|| buckets.value(row));
        places.extend((0..rows.num_rows()).map(|row| (keys.value(row), bucket(row), Reverse(layer), row)));
    }
    places.sort_unstable();
    places.dedup_by_key(|(key, bucket, ..)| (*key, *bucket));
    let picked: Vec<_> = places.into_iter().map(|(_, _, Reverse(layer), row)| (layer, row)).collect();
    interleave_record_batch(&layers.iter().collect::<Vec<_>>(), &picked).expect("layers of one view have one schema")
}

fn keys(states: &RecordBatch) -> &StringArray {
    states.column(0).as_string()
}
