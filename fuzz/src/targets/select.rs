//! View definitions from a grammar, most of them valid: the same judgement as for any text.

use super::sql::judge;
use crate::choices::Choices;
use crate::grammar;

pub(crate) fn run(input: &[u8]) {
    judge(&grammar::select(&mut Choices::new(input)));
}
