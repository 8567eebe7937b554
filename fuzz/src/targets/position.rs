//! Tokens of `min_position`: read by the letter of their grammar, or refused naming the field.

use serving_layer::Position;

use crate::choices::Choices;
use crate::naive;

pub(crate) fn run(input: &[u8]) {
    let token = match input.split_first() {
        Some((0, decisions)) => written(&mut Choices::new(decisions)),
        _ => String::from_utf8_lossy(input).into_owned(),
    };
    match (Position::parse(&token), naive::position(&token)) {
        (Ok(read), Some((log_id, offsets))) => {
            assert_eq!((&read.log_id, &read.offsets), (&log_id, &offsets), "{token:?}");
            let pairs: Vec<String> = offsets.iter().map(|(partition, offset)| format!("{partition}={offset}")).collect();
            let again = Position::parse(&format!("{log_id}:{}", pairs.join(",")));
            assert_eq!(again.ok(), Some(read), "{token:?} written again");
        }
        (Err(error), None) => assert!(error.to_string().contains("min_position"), "{error}"),
        (read, expected) => panic!("{token:?} is read as {read:?}, it should be {expected:?}"),
    }
}

/// Mostly positions.
fn written(choices: &mut Choices<'_>) -> String {
    let mut token = choices.text(8) + choices.pick(&[":", "", "::"]);
    for _ in 0..choices.below(5) {
        let big = choices.one_in(4);
        let number = |choices: &mut Choices<'_>| if big { choices.number() } else { choices.below(9) as u64 };
        token += &format!("{}{}{}{}", number(choices), choices.pick(&["=", "", "=="]), number(choices), choices.pick(&[",", "", ";"]));
    }
    token
}
