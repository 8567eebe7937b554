//! Decimal text to unscaled integers and back, exactly: a value that does not fit is refused, never rounded.

use std::fmt::Write;

/// Precision and scale of a decimal column, as in SQL's `decimal(precision, scale)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecimalType {
    /// All digits, 1 to 38.
    pub precision: u8,
    /// Digits after the point, at most `precision`.
    pub scale: u8,
}

/// Why a text is not a value of a decimal column.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not a number at all; exponents (`1e3`) are numbers, `NaN` is not.
    #[error("is not a decimal number")]
    NotANumber,
    /// Digits other than zero stand behind the last digit that the column keeps.
    #[error("has more than {scale} digits after the point")]
    TooFine {
        /// Digits after the point that the column keeps.
        scale: u8,
    },
    /// Too large for the column.
    #[error("needs more than the {digits} digits that the column has before the point")]
    TooLarge {
        /// Digits before the point that the column keeps.
        digits: u8,
    },
}

impl DecimalType {
    /// The largest unscaled value plus one.
    fn limit(self) -> i128 {
        10_i128.pow(u32::from(self.precision))
    }

    /// The unscaled value of `text`: `"12.34"` is 123400 in `decimal(18, 4)`.
    pub fn parse(self, text: &str) -> Result<i128, DecimalError> {
        let (mantissa, exponent) = split_exponent(text)?;
        let (negative, digits) = match mantissa.as_bytes() {
            [b'-', ..] => (true, &mantissa[1..]),
            [b'+', ..] => (false, &mantissa[1..]),
            _ => (false, mantissa),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(DecimalError::NotANumber);
        }
        let significant: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        // The digit at index i stands for 10^(point - 1 - i); the last one kept stands for 10^-scale.
        let point = whole.len() as i64 + exponent;
        let kept = point + i64::from(self.scale);
        let mut unscaled = 0_i128;
        for (i, digit) in significant.iter().enumerate() {
            if i as i64 >= kept {
                if *digit != 0 {
                    return Err(DecimalError::TooFine { scale: self.scale });
                }
                continue;
            }
            unscaled = self.append_digit(unscaled, *digit)?;
        }
        let mut missing = kept - significant.len() as i64;
        while missing > 0 && unscaled != 0 {
            unscaled = self.append_digit(unscaled, 0)?;
            missing -= 1;
        }
        Ok(if negative { -unscaled } else { unscaled })
    }

    fn append_digit(self, unscaled: i128, digit: u8) -> Result<i128, DecimalError> {
        // Thirty-nine digits may be more than 128 bits hold.
        let next = unscaled.checked_mul(10).and_then(|tens| tens.checked_add(i128::from(digit)));
        next.filter(|next| *next < self.limit()).ok_or(DecimalError::TooLarge { digits: self.precision - self.scale })
    }
}

/// `"1.5e3"` is `("1.5", 3)`. Exponents beyond four digits are no use to a 38-digit column and are refused.
fn split_exponent(text: &str) -> Result<(&str, i64), DecimalError> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return Ok((text, 0)) };
    if exponent.trim_start_matches(['+', '-']).len() > 4 {
        return Err(DecimalError::NotANumber);
    }
    exponent.parse().map(|e| (mantissa, e)).map_err(|_| DecimalError::NotANumber)
}

/// The shortest text of an unscaled value: `format(123400, 4)` is `"12.34"`.
#[must_use]
pub fn format(unscaled: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    let digits = unscaled.unsigned_abs().to_string();
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let fraction = fraction.trim_end_matches('0');
    let mut text = String::with_capacity(padded.len() + 2);
    if unscaled < 0 {
        text.push('-');
    }
    text.push_str(whole);
    if !fraction.is_empty() {
        write!(text, ".{fraction}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONEY: DecimalType = DecimalType { precision: 18, scale: 4 };

    /// Proves that what the column can hold is kept exactly, in every way of writing it.
    #[test]
    fn keeps_every_digit() {
        for (text, unscaled) in [
            ("0", 0),
            ("12.34", 123_400),
            ("-168469.6", -1_684_696_000),
            ("+1.", 10_000),
            (".5", 5_000),
            ("1e3", 10_000_000),
            ("1.5E-2", 150),
            ("2.9000000", 29_000),
            ("99999999999999.9999", 999_999_999_999_999_999),
            ("0e9999", 0),
            ("-0", 0),
        ] {
            assert_eq!(MONEY.parse(text), Ok(unscaled), "{text}");
        }
    }

    /// Proves that nothing is rounded and that no text, however odd, is taken for a number.
    #[test]
    fn refuses_what_it_cannot_hold() {
        for text in ["0.00001", "1e-5", "-12.34567"] {
            assert_eq!(MONEY.parse(text), Err(DecimalError::TooFine { scale: 4 }), "{text}");
        }
        for text in ["100000000000000", "1e99", "123456789012345678901234567890123456789012345678901234567890"] {
            assert_eq!(MONEY.parse(text), Err(DecimalError::TooLarge { digits: 14 }), "{text}");
        }
        for text in ["", ".", "-", "NaN", "inf", "1,5", "0x10", " 1", "1e", "1e99999", "1.2.3", "--1", "1e1e1", "١"] {
            assert_eq!(MONEY.parse(text), Err(DecimalError::NotANumber), "{text:?}");
        }
    }

    /// Proves that one digit too many for the widest column is refused, where it no longer fits into 128 bits either.
    #[test]
    fn the_widest_column() {
        let widest = DecimalType { precision: 38, scale: 0 };
        assert_eq!(widest.parse(&"9".repeat(38)), Ok(10_i128.pow(38) - 1));
        for text in ["9".repeat(39), "2e38".to_owned(), format!("-{}", "4".repeat(40))] {
            assert_eq!(widest.parse(&text), Err(DecimalError::TooLarge { digits: 38 }), "{text}");
        }
    }

    /// Proves that output text is the shortest that parses back to the same value.
    #[test]
    fn formats_and_parses_back() {
        for (unscaled, text) in [(123_400, "12.34"), (-5, "-0.0005"), (0, "0"), (10_000, "1"), (29_000, "2.9")] {
            assert_eq!(format(unscaled, 4), text);
            assert_eq!(MONEY.parse(text), Ok(unscaled));
        }
        assert_eq!(format(i128::MIN, 0), "-170141183460469231731687303715884105728");
    }
}
