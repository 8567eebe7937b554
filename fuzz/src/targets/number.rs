//! Amounts and times as text, against a reading that moves digits about and counts days one by one.

use views::decimal::{self, DecimalType};
use views::event::Typed;
use views::schema::AttributeType;

use crate::choices::Choices;
use crate::naive;

/// The years 1900 to 2199, in microseconds.
const TIMES_US: std::ops::Range<i128> = -2_208_988_800_000_000..7_258_118_400_000_000;

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.below(4) {
        0 => {
            let kind = decimal_type(&mut choices);
            amount(&String::from_utf8_lossy(choices.rest()), kind);
        }
        1 => {
            let kind = decimal_type(&mut choices);
            amount(&decimal_text(&mut choices), kind);
        }
        2 => time(&String::from_utf8_lossy(choices.rest())),
        _ => time(&time_text(&mut choices)),
    }
}

fn decimal_type(choices: &mut Choices<'_>) -> DecimalType {
    let precision = 1 + choices.below(38) as u8;
    DecimalType { precision, scale: choices.below(usize::from(precision) + 1) as u8 }
}

fn amount(text: &str, kind: DecimalType) {
    let read = kind.parse(text);
    let expected = naive::decimal(text, kind.precision.into(), kind.scale.into());
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "{text:?} in {kind:?}: {read:?}");
    if let Ok(unscaled) = read {
        let shown = decimal::format(unscaled, kind.scale as i8);
        assert_eq!(kind.parse(&shown), Ok(unscaled), "{text:?} is shown as {shown}");
    }
}

/// Mostly numbers, of all lengths.
pub(crate) fn decimal_text(choices: &mut Choices<'_>) -> String {
    let mut text = choices.pick(&["", "-", "+", "--", " "]).to_owned();
    for (most, mark) in [(45, "."), (45, "e"), (5, "")] {
        text += choices.pick(&["", "0", "000000000000000000000000000000000000000", "9", "99999999999999999999999999999999999999", "1"]);
        for _ in 0..choices.below(most) {
            text.push(char::from(b'0' + choices.below(10) as u8));
        }
        if choices.one_in(2) {
            text += mark;
            text += choices.pick(&["", "", "-", "+"]);
        }
    }
    text
}

fn time(text: &str) {
    let read = Typed::parse(text, AttributeType::Timestamp);
    if let Ok(Typed::Timestamp(us)) = read {
        assert!(TIMES_US.contains(&i128::from(us)), "{text:?} is {us}");
    }
    // What is written otherwise, but read, is a matter of taste: a small t, a space, a leap second.
    if let Some(us) = naive::time(text) {
        let expected = TIMES_US.contains(&us).then_some(Typed::Timestamp(us as i64));
        assert_eq!(read.clone().ok(), expected, "{text:?}: {read:?}");
    }
}

/// Mostly times, of all years and zones.
pub(crate) fn time_text(choices: &mut Choices<'_>) -> String {
    let year = if choices.one_in(2) { choices.below(10_000) } else { 1890 + choices.below(320) };
    let (month, day) = (choices.below(14), choices.below(33));
    let (hour, minute, second) = (choices.below(25), choices.below(61), choices.below(62));
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if choices.one_in(2) {
        text.push('.');
        (0..choices.below(12)).for_each(|_| text.push(char::from(b'0' + choices.below(10) as u8)));
    }
    match choices.below(4) {
        0 => text += &format!("{}{:02}:{:02}", choices.pick(&["+", "-"]), choices.below(25), choices.below(61)),
        1 => text += &choices.text(6),
        _ => text.push('Z'),
    }
    text
}
