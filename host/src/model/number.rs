//! Numbers in JSON text that cannot be kept as they are written are refused, never changed.
//!
//! A number is kept as a whole number of 64 bits, with or without a sign, or else as a double. A double keeps
//! any 15 significant digits; more digits are accepted only if they are digits of that double.

/// How many significant digits any normal double keeps.
const DIGITS: usize = f64::DIGITS as usize;

/// How many digits after the first the longest double has when it is written out.
const DOUBLE_DIGITS: usize = 766;

/// The error for a number that a double cannot hold as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the number {shown} {reason}; give it as a string, or round it")]
pub struct NotKept {
    shown: String,
    reason: &'static str,
}

/// Checks that a double can hold every number of a JSON text as it is written. A text that is not JSON is
/// accepted: its reader refuses it.
///
/// # Errors
///
/// The first number that cannot.
pub fn check_numbers(json: &str) -> Result<(), NotKept> {
    Numbers { rest: json }.try_for_each(|(_, number)| check(number))
}

/// Replaces some numbers of a JSON text, and leaves everything else as it is.
pub fn replace_numbers<'r>(json: &str, replacement: impl Fn(&str) -> Option<&'r str>) -> String {
    let mut numbers = Numbers { rest: json };
    let mut replaced = String::with_capacity(json.len());
    for (before, number) in &mut numbers {
        replaced.push_str(before);
        replaced.push_str(replacement(number).unwrap_or(number));
    }
    replaced.push_str(numbers.rest);
    replaced
}

/// Iterates over the numbers of a JSON text, each with the text before it.
struct Numbers<'j> {
    /// The rest of the text.
    rest: &'j str,
}

impl<'j> Iterator for Numbers<'j> {
    type Item = (&'j str, &'j str);

    fn next(&mut self) -> Option<Self::Item> {
        let mut at = 0;
        loop {
            let begins = |c: char| c == '"' || c == '-' || c.is_ascii_digit();
            at += self.rest[at..].find(begins)?;
            match self.rest[at..].strip_prefix('"') {
                Some(text) => at = self.rest.len() - after_string(text).len(),
                None => break,
            }
        }
        let (before, rest) = self.rest.split_at(at);
        let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        let (number, rest) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        self.rest = rest;
        Some((before, number))
    }
}

/// The text after the closing quote of a string.
fn after_string(text: &str) -> &str {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn check(number: &str) -> Result<(), NotKept> {
    if number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return Ok(());
    }
    let Ok(double) = number.parse::<f64>() else {
        return Ok(());
    };
    let fault = |reason| {
        Err(NotKept {
            shown: match number {
                long if long.len() > 50 => format!("{}…", &long[..50]),
                short => short.to_owned(),
            },
            reason,
        })
    };
    if double.is_infinite() {
        return fault("is larger than a double holds");
    }
    let digits = digits_of(number);
    let digits = digits.trim_matches('0');
    if digits.is_empty() {
        return Ok(());
    }
    if double == 0.0 {
        return fault("is closer to 0 than a double holds");
    }
    if digits.len() <= DIGITS && double.is_normal() {
        return Ok(());
    }
    // The decimal of as many digits that is nearest to the double. Where it is read as another double, which
    // happens beside powers of two, the number is the only decimal of as many digits that names this one.
    let nearest = format!("{double:.*e}", digits.len() - 1);
    let is_kept = digits_of(&nearest) == digits
        || nearest.parse() != Ok(double)
        || is_equally_near(double, digits);
    match is_kept {
        true => Ok(()),
        false => fault("has more digits than a double or a whole number of 64 bits holds"),
    }
}

/// The digits of a number, without its sign, point and exponent.
fn digits_of(number: &str) -> String {
    let (mantissa, _) = number.split_once(['e', 'E']).unwrap_or((number, ""));
    mantissa.chars().filter(char::is_ascii_digit).collect()
}

/// Whether a double lies in the middle between two decimals of as many digits, and these are the digits of
/// the odd one: Rust's own formatting rounds 1658206780088562.25 to …562.3, and to …562.2 when it is asked
/// for 16 digits.
fn is_equally_near(double: f64, digits: &str) -> bool {
    let exact = digits_of(&format!("{double:.DOUBLE_DIGITS$e}"));
    let Some(cut) = exact.trim_end_matches('0').strip_suffix('5') else {
        return false;
    };
    // The bits of '0' to '9' end as the digits do: the odd one of the two has the last bit.
    let odd = |last: u8| last | 1;
    match (cut.as_bytes().split_last(), digits.as_bytes().split_last()) {
        (Some((cut, rest)), Some((digit, before))) => odd(*cut) == *digit && rest == before,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_changed_is_refused() {
        for number in [
            "1e400",
            "-1e400",
            "1e-400",
            "18446744073709551617",
            "-9223372036854775809",
            "3.141592653589793238462643383279502884197",
            "0.12345678901234567890",
            "1234567890123456789012345678901234567890",
            "1.2345678901234567e-320",
            "9007199254740993.0",
            "9007199254740993e0",
            "-900719925474099.35",
            "0.30000000000000001",
            "905838151287412.61",
        ] {
            let text = format!("{{\"a\": [1, \"1e400\", {number}]}}");
            let told = check_numbers(&text).unwrap_err().to_string();
            assert!(told.starts_with(&format!("the number {number} ")), "{told}");
        }
    }

    #[test]
    fn what_is_kept_is_accepted() {
        for number in [
            "0",
            "-0.0",
            "0e0",
            "0.00000",
            "117.63331139400017",
            "18446744073709551615",
            "-9223372036854775808",
            "18446744073709551616",
            "9007199254740993",
            "1e308",
            "1.7976931348623157e308",
            "5e-324",
            "4.9406564584124654e-324",
            "9007199254740992.0",
            // The double is …412.625.
            "905838151287412.62",
            "905838151287412.63",
            // 2^-44: the nearest decimal of 16 digits, …801e-14, is read as the double before it.
            "5.684341886080802e-14",
            "2.2250738585072014e-308",
            "100000000000000000000000000000000000000000",
            "1.50000000000000000000000000000000",
            // All of the digits of 0.1 as a double.
            "0.1000000000000000055511151231257827021181583404541015625",
        ] {
            assert_eq!(check_numbers(number), Ok(()), "{number}");
        }
        // Not numbers.
        for text in [r#""1e400""#, r#"{"\"1e400": "\\"}"#, "\"", "-", "nonsense"] {
            assert_eq!(check_numbers(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn every_double_is_accepted_as_it_is_written() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut tried = 0;
        while tried < 20_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let double = f64::from_bits(state);
            if !double.is_finite() {
                continue;
            }
            tried += 1;
            for text in [
                serde_json::to_string(&double).unwrap(),
                format!("{double:.16e}"),
                format!("{double}"),
            ] {
                assert_eq!(check_numbers(&text), Ok(()), "{text}");
                let read: f64 = serde_json::from_str(&text).unwrap();
                assert_eq!(read.to_bits(), double.to_bits(), "{text}");
            }
        }
    }
}
