//! The one hash that places a key: log partitions, view files and fan-out all cut its range.

use twox_hash::XxHash3_64;

/// Where a key lies among `shards` equal ranges of the hash: `0..shards`.
///
/// XXH3-64 with seed 0, scaled by multiplication, so that twice as many shards cut each range exactly in two.
#[must_use]
pub fn shard_of(key: &str, shards: u32) -> u32 {
    let hash = XxHash3_64::oneshot(key.as_bytes());
    let shard = (u128::from(hash) * u128::from(shards)) >> 64;
    u32::try_from(shard).expect("a fraction of `shards` is below it")
}

/// Where a key of a view lies: with all that have the same first column, so that a user's lie where the user's events do.
#[must_use]
pub fn shard_of_key(key: &str, shards: u32) -> u32 {
    shard_of(crate::key::first_part(key), shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the placement never changes: stored views and logs depend on it.
    #[test]
    fn frozen() {
        let places: Vec<u32> = ["", "14646", "16446", "user-1", "ünïcode"].iter().map(|k| shard_of(k, 1000)).collect();
        assert_eq!(places, [175, 466, 328, 486, 701]);
    }

    /// Proves that view files nest inside log partitions.
    #[test]
    fn ranges_nest() {
        for i in 0..1000 {
            let key = format!("user-{i}");
            assert_eq!(shard_of(&key, 12) / 3, shard_of(&key, 4));
        }
    }
}
