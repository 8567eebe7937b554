//! Bytes that are no longer as they were written: what a disk, a cable or a person can do to a file.

use crate::choices::Choices;

/// Lengths that a reader may believe.
const LENGTHS: [u32; 9] = [0, 1, 15, 1 << 20, (1 << 20) + 1, 32 << 20, i32::MAX as u32, 1 << 31, u32::MAX];

/// One change, which may turn out to be none.
pub fn spoil(bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
    let kind = choices.below(11);
    let at = choices.below(bytes.len());
    let length = 1 + choices.below(64).min(bytes.len().saturating_sub(at + 1));
    let block = at..(at + length).min(bytes.len());
    match kind {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << choices.below(8),
        1 if !bytes.is_empty() => bytes[at] = choices.byte(),
        2 => bytes.truncate(at),
        3 => swap_blocks(bytes, block, choices),
        4 => {
            let copy = bytes[block].to_vec();
            insert(bytes, choices.below(bytes.len() + 1), &copy);
        }
        5 => drop(bytes.drain(block)),
        6 => bytes[block].fill(0),
        7 => {
            let length = LENGTHS[choices.below(LENGTHS.len())].to_le_bytes();
            bytes[at..].iter_mut().zip(length).for_each(|(byte, new)| *byte = new);
        }
        8 => insert(bytes, at, choices.bytes(64)),
        9 => bytes.resize(bytes.len() + 1 + choices.below(5000), 0),
        10 => *bytes = choices.bytes(255).to_vec(),
        _ => {}
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    bytes.splice(at..at, more.iter().copied());
}

/// Swaps a block with another one of its length, unless they overlap.
fn swap_blocks(bytes: &mut [u8], block: std::ops::Range<usize>, choices: &mut Choices<'_>) {
    let other = choices.below(bytes.len());
    let (first, second) = (block.start.min(other), block.start.max(other));
    let length = block.len().min(second - first).min(bytes.len() - second);
    let (left, right) = bytes.split_at_mut(second);
    left[first..first + length].swap_with_slice(&mut right[..length]);
}
