//! Scalars from text: numbers exactly, dates and times. Shared by all text formats.

/// A decimal number as it was written: `mantissa * 10^exponent`, negated if so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<'a> {
    pub raw: &'a [u8],
    pub negative: bool,
    pub mantissa: u64,
    pub exponent: i32,
    /// `mantissa` holds every digit; otherwise only `raw` does.
    pub exact: bool,
}

/// Why a number does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It has more digits behind the point than there is room for.
    Inexact,
    /// It is too large or too small.
    OutOfRange,
}

impl<'a> Number<'a> {
    /// The number as an integer.
    #[inline]
    pub fn to_i64(self) -> Result<i64, Misfit> {
        if self.exact && self.exponent == 0 {
            let magnitude = self.mantissa;
            return match self.negative {
                false => i64::try_from(magnitude).map_err(|_| Misfit::OutOfRange),
                true if magnitude <= 1 << 63 => Ok((magnitude as i64).wrapping_neg()),
                true => Err(Misfit::OutOfRange),
            };
        }
        self.scaled(0).and_then(|value| i64::try_from(value).map_err(|_| Misfit::OutOfRange))
    }

    /// The nearest double; `OutOfRange` where that is infinite.
    #[inline]
    pub fn to_f64(self) -> Result<f64, Misfit> {
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
            1e19, 1e20, 1e21, 1e22,
        ];
        // Both operands are exact as doubles, so that one operation rounds correctly (Clinger's fast path).
        if self.exact && self.mantissa < 1 << 53 && (-22..=22).contains(&self.exponent) {
            let magnitude = self.mantissa as f64;
            let power = POWERS[self.exponent.unsigned_abs() as usize];
            let value = if self.exponent < 0 { magnitude / power } else { magnitude * power };
            return Ok(if self.negative { -value } else { value });
        }
        let value: f64 = self.text().parse().map_err(|_| Misfit::OutOfRange)?;
        if value.is_finite() { Ok(value) } else { Err(Misfit::OutOfRange) }
    }

    /// The nearest single-precision number; `OutOfRange` where that is infinite.
    pub fn to_f32(self) -> Result<f32, Misfit> {
        let value: f32 = self.text().parse().map_err(|_| Misfit::OutOfRange)?;
        if value.is_finite() { Ok(value) } else { Err(Misfit::OutOfRange) }
    }

    /// `number * 10^scale`, if that is an integer of at most 38 digits.
    pub fn scaled(self, scale: i32) -> Result<i128, Misfit> {
        let mut value: i128 = 0;
        // Digits behind the last one in `value` that are all zero so far.
        let mut zeros: i32 = 0;
        let mut seen_point = false;
        let mut exponent = scale;
        let digits_end = self.raw.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(self.raw.len());
        for &byte in &self.raw[..digits_end] {
            match byte {
                b'.' => seen_point = true,
                b'0'..=b'9' => {
                    exponent -= i32::from(seen_point);
                    if byte == b'0' {
                        zeros += i32::from(value != 0);
                    } else {
                        value =
                            shift(value, zeros + 1)?.checked_add(i128::from(byte - b'0')).ok_or(Misfit::OutOfRange)?;
                        zeros = 0;
                    }
                }
                _ => {}
            }
        }
        if value == 0 {
            return Ok(0);
        }
        exponent = exponent.saturating_add(zeros).saturating_add(self.written_exponent());
        if exponent < 0 {
            return Err(Misfit::Inexact);
        }
        let value = shift(value, exponent)?;
        if value >= 10_i128.pow(38) {
            return Err(Misfit::OutOfRange);
        }
        Ok(if self.negative { -value } else { value })
    }

    fn written_exponent(self) -> i32 {
        match self.raw.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => parse_exponent(&self.raw[at + 1..]),
            None => 0,
        }
    }

    fn text(self) -> &'a str {
        // A number is ASCII.
        std::str::from_utf8(self.raw).unwrap_or("")
    }
}

fn shift(value: i128, digits: i32) -> Result<i128, Misfit> {
    if digits > 38 {
        return Err(Misfit::OutOfRange);
    }
    10_i128.checked_pow(digits as u32).and_then(|power| value.checked_mul(power)).ok_or(Misfit::OutOfRange)
}

/// `+12`, `-3`: saturates far outside of any number's range.
pub(crate) fn parse_exponent(text: &[u8]) -> i32 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let value = digits.iter().fold(0_i32, |value, b| (value * 10 + i32::from(b.wrapping_sub(b'0'))).min(1_000_000));
    if negative { -value } else { value }
}

/// A number as people write them: a sign, digits, a point, an exponent; zeros in front are fine.
pub(crate) fn parse_number(raw: &[u8]) -> Option<Number<'_>> {
    let (negative, digits) = match raw {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let mut number = Number { raw, negative, mantissa: 0, exponent: 0, exact: true };
    let (mut any, mut point) = (false, false);
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                any = true;
                number.push_digit(byte);
                number.exponent -= i32::from(point);
            }
            b'.' if !point => point = true,
            b'e' | b'E' if any => {
                let exponent = &digits[at + 1..];
                let unsigned = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
                if unsigned.is_empty() || !unsigned.iter().all(u8::is_ascii_digit) {
                    return None;
                }
                number.exponent = number.exponent.saturating_add(parse_exponent(exponent));
                break;
            }
            _ => return None,
        }
    }
    any.then_some(number)
}

impl Number<'_> {
    #[inline]
    pub fn push_digit(&mut self, byte: u8) {
        let digit = u64::from(byte - b'0');
        match self.mantissa.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(mantissa) if self.exact => self.mantissa = mantissa,
            _ => self.exact = false,
        }
    }
}

/// Microseconds since 1970 of a number that counts from 1970.
///
/// The unit follows from the magnitude: below 10^11 seconds (up to the year 5138), below 10^14 milliseconds, below
/// 10^17 microseconds; beyond that the number is no time. What is finer than a microsecond is cut off (towards the past).
pub(crate) fn epoch_micros(number: Number<'_>) -> Option<i64> {
    if !number.exact {
        return None;
    }
    let mantissa = i128::from(number.mantissa) * if number.negative { -1 } else { 1 };
    let shifted = |digits: i32| -> Option<i128> {
        match digits {
            0 => Some(mantissa),
            1..=18 => mantissa.checked_mul(10_i128.pow(digits as u32)),
            -30..=-1 => Some(mantissa.div_euclid(10_i128.pow(digits.unsigned_abs()))),
            _ if mantissa == 0 => Some(0),
            _ => None,
        }
    };
    let unit_digits = match shifted(number.exponent)?.unsigned_abs() {
        0..100_000_000_000 => 6,
        100_000_000_000..100_000_000_000_000 => 3,
        100_000_000_000_000..100_000_000_000_000_000 => 0,
        _ => return None,
    };
    i64::try_from(shifted(number.exponent + unit_digits)?).ok()
}

/// Days since 1970-01-01 of a date in the (proleptic) Gregorian calendar; `None` where there is no such day.
/// After Howard Hinnant's `days_from_civil`.
pub(crate) fn days_from_civil(year: i64, month: u32, day: u32) -> Option<i32> {
    const DAYS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_max = DAYS.get(month.checked_sub(1)? as usize)? + u32::from(leap && month == 2);
    if day == 0 || day > days_max {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

#[inline]
fn digits(text: &[u8]) -> Option<u32> {
    let mut value = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    Some(value)
}

/// `YYYY-MM-DD` as days since 1970.
pub(crate) fn parse_date(text: &[u8]) -> Option<i32> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *text else { return None };
    days_from_civil(i64::from(digits(&[y0, y1, y2, y3])?), digits(&[m0, m1])?, digits(&[d0, d1])?)
}

/// Microseconds since 1970 of RFC 3339, and of `YYYY-MM-DD[( |T)HH:MM[:SS[.f...]]][zone]` as it is found.
///
/// The zone is `Z`, `+HH:MM`, `+HHMM` or `+HH`; without one the time is UTC. What is finer than a microsecond is cut off.
/// A leap second (60) is the first one of the next minute.
pub(crate) fn parse_timestamp(text: &[u8]) -> Option<i64> {
    const DAY_MICROS: i64 = 86_400_000_000;
    let (date, rest) = text.split_at_checked(10)?;
    let days = i64::from(parse_date(date)?);
    let rest = match rest {
        [] => return Some(days * DAY_MICROS),
        [b'T' | b't' | b' ', rest @ ..] => rest,
        _ => return None,
    };
    let [h0, h1, b':', m0, m1, rest @ ..] = rest else { return None };
    let (hours, minutes) = (digits(&[*h0, *h1])?, digits(&[*m0, *m1])?);
    let (seconds, micros, zone) = match rest {
        [b':', s0, s1, b'.', rest @ ..] => {
            let end = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            let kept = end.min(6);
            let fraction = rest[..kept].iter().fold(0, |fraction, digit| fraction * 10 + u32::from(digit - b'0'));
            (digits(&[*s0, *s1])?, fraction * 10_u32.pow(6 - kept as u32), &rest[end..])
        }
        [b':', s0, s1, rest @ ..] => (digits(&[*s0, *s1])?, 0, rest),
        rest => (0, 0, rest),
    };
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let zone = if let [b' ', zone @ ..] = zone { zone } else { zone };
    let offset_minutes = match zone {
        [] | [b'Z' | b'z'] | b"UTC" => 0,
        [sign @ (b'+' | b'-'), hh @ ..] => {
            let (hh, mm) = match hh {
                [h0, h1] => (digits(&[*h0, *h1])?, 0),
                [h0, h1, m0, m1] | [h0, h1, b':', m0, m1] => (digits(&[*h0, *h1])?, digits(&[*m0, *m1])?),
                _ => return None,
            };
            if hh > 23 || mm > 59 {
                return None;
            }
            let minutes = i64::from(hh * 60 + mm);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = i64::from(hours * 3600 + minutes * 60 + seconds) - offset_minutes * 60;
    Some(days * DAY_MICROS + seconds * 1_000_000 + i64::from(micros))
}
