//! Places in the log: one offset for each partition, exclusive.

use std::collections::BTreeMap;

use crate::ServingError;

/// For each partition, the first offset that is not meant. A partition that is not named stands at 0.
pub(crate) type Offsets = BTreeMap<i32, i64>;

/// How far a log was when it acknowledged something, from the `position` of an ingest response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log that gave it.
    pub log_id: String,
    /// By partition, exclusive.
    pub offsets: BTreeMap<i32, i64>,
}

/// A place that was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) reached: i64,
}

impl Position {
    /// Reads `<log id>:<partition>=<offset>,<partition>=<offset>`.
    ///
    /// # Errors
    /// The token is written otherwise; the error names `min_position`.
    pub fn parse(token: &str) -> Result<Self, ServingError> {
        let malformed = || ServingError::field("min_position", "is not a position from an ingest response");
        let (log_id, pairs) = token.split_once(':').filter(|(log_id, _)| !log_id.is_empty()).ok_or_else(malformed)?;
        let mut offsets = Offsets::new();
        for pair in pairs.split(',').filter(|_| !pairs.is_empty()) {
            let (partition, offset) = pair.split_once('=').ok_or_else(malformed)?;
            let (partition, offset) = (natural(partition).ok_or_else(malformed)?, natural(offset).ok_or_else(malformed)?);
            let partition = i32::try_from(partition).map_err(|_| malformed())?;
            if offsets.insert(partition, offset).is_some() {
                return Err(malformed());
            }
        }
        Ok(Self { log_id: log_id.to_owned(), offsets })
    }

    /// The first partition in which `reached` ends below this position.
    pub(crate) fn beyond(&self, reached: &Offsets) -> Option<Shortfall> {
        self.offsets.iter().find_map(|(&partition, &offset)| {
            let reached = reached.get(&partition).copied().unwrap_or(0);
            (reached < offset).then_some(Shortfall { partition, offset, reached })
        })
    }
}

/// A number in plain digits: no sign, no space.
fn natural(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a token is read as it was written, and that nothing else is taken for one.
    #[test]
    fn tokens() {
        let position = Position::parse("a1b2:0=7,3=0").unwrap();
        assert_eq!(position, Position { log_id: "a1b2".into(), offsets: [(0, 7), (3, 0)].into() });
        assert_eq!(Position::parse("a1b2:").unwrap().offsets, Offsets::new());
        for wrong in
            ["a1b2", ":0=7", "a:0", "a:0=", "a:=1", "a:0=-1", "a:0=+1", "a:0=1,", "a:0=1,0=2", "a:0=1;1=2", "a:9999999999=1", "a: 0=1"]
        {
            assert!(Position::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// Proves that offsets are exclusive: equal is reached, one less is not, and an unnamed partition stands at 0.
    #[test]
    fn reached() {
        let position = Position::parse("a:0=7,3=2").unwrap();
        assert_eq!(position.beyond(&[(0, 7), (3, 2)].into()), None);
        assert_eq!(position.beyond(&[(0, 6), (3, 2)].into()), Some(Shortfall { partition: 0, offset: 7, reached: 6 }));
        assert_eq!(position.beyond(&[(0, 9)].into()), Some(Shortfall { partition: 3, offset: 2, reached: 0 }));
    }
}
