//! Dead letters are written, the file is spoilt, and it is read and opened again: an error that names the file, or the first of
//! the letters that were written.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use storage::dead_letter::{DeadLetter, DeadLetters, MAX_LETTER_BYTES, read_all};
use storage::log::LogError;

use crate::choices::Choices;
use crate::memory::largest_of;
use crate::scratch;
use crate::spoil::spoil;

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let folder = scratch::folder();
    let mut written: Vec<DeadLetter> = Vec::new();
    let mut open = DeadLetters::open(folder.path()).expect("a new folder takes letters");
    for _ in 0..choices.below(5) {
        let letter = letter(&mut choices);
        let kept = open.record(std::slice::from_ref(&letter)).expect("the letter is small");
        let known = written.iter().any(|earlier| earlier.id() == letter.id());
        assert_eq!(kept, usize::from(!known), "a letter is kept once");
        if !known {
            written.push(letter);
        }
    }
    drop(open);

    let path = folder.path().join("dead-letter/letters.log");
    let mut bytes = fs::read(&path).expect("it was written");
    let as_written = bytes.clone();
    (0..choices.below(4)).for_each(|_| spoil(&mut bytes, &mut choices));
    fs::write(&path, &bytes).expect("the folder takes files");

    let (whole, largest) = largest_of(|| judge(folder.path(), &written));
    assert!(largest <= MAX_LETTER_BYTES + (1 << 20) + 4 * bytes.len(), "{largest} bytes at once for a file of {}", bytes.len());
    assert!(whole || bytes != as_written, "nothing was spoilt, and letters are missing");
}

/// Texts and whole numbers, as the speed layer makes them, in any nesting.
fn letter(choices: &mut Choices<'_>) -> DeadLetter {
    DeadLetter { received_time_us: choices.number() as i64, field: choices.text(12), reason: choices.text(12), event: value(choices, 3) }
}

fn value(choices: &mut Choices<'_>, depth: usize) -> Value {
    match choices.below(if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(choices.one_in(2)),
        2 => json!(choices.number() as i64),
        3 => json!(choices.number()),
        4 => json!(choices.text(20)),
        5 => (0..choices.below(4)).map(|_| value(choices, depth - 1)).collect(),
        _ => Value::Object((0..choices.below(4)).map(|_| (choices.text(6), value(choices, depth - 1))).collect()),
    }
}

/// Reads, opens and reads again; whether all letters are still there.
fn judge(data_dir: &Path, written: &[DeadLetter]) -> bool {
    let before = read(data_dir, written);
    let opened = DeadLetters::open(data_dir);
    match (&before, &opened) {
        (Ok(read), Ok(open)) => assert_eq!(open.count(), *read, "the writer and the reader count alike"),
        (Err(_), Err(error)) => names_the_file(error, data_dir),
        (Ok(read), Err(error)) => panic!("{read} letters are read, and the file cannot be opened: {error}"),
        (Err(error), Ok(open)) => panic!("the file is opened with {} letters, and cannot be read: {error}", open.count()),
    }
    drop(opened);
    if let Ok(read_before) = before {
        let after = read(data_dir, written);
        assert_eq!(after.ok(), Some(read_before), "opening changed what is read");
    }
    before.is_ok_and(|read| read == written.len())
}

/// How many letters are read; each must be the one that was written.
fn read(data_dir: &Path, written: &[DeadLetter]) -> Result<usize, String> {
    let told = |error: LogError| {
        names_the_file(&error, data_dir);
        error.to_string()
    };
    let mut count = 0;
    for letter in read_all(data_dir).map_err(told)? {
        let (id, letter) = letter.map_err(told)?;
        assert!(written.get(count) == Some(&letter), "letter {count} is not what was written: {letter:?}");
        assert_eq!(id, letter.id(), "a letter is named by its content");
        count += 1;
    }
    Ok(count)
}

fn names_the_file(error: &LogError, data_dir: &Path) {
    let text = error.to_string();
    assert!(text.contains(&*data_dir.to_string_lossy()), "no file is named: {text}");
}
