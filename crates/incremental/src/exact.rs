//! Exact sums of floats: order-independent, with weights and removal, correctly rounded on reading.
//!
//! A finite double is an integer number of units of 2^-1074. An [`ExactSum`] is such an integer, without
//! rounding, so addition is associative, commutative and invertible: what was added can be taken away and leaves
//! nothing behind. Most sums fit 127 bits above their lowest set bit and are held in one `i128`; the others spill
//! to a fixed-point number wide enough for every double times every count.
//!
//! Infinities and NaN are counted by weight, so that removing the only infinity gives a finite sum again.

use std::fmt;

/// Words of the wide form: 2,098 bits of doubles, 63 of weight, 64 of additions, and a sign.
const WORDS: usize = 36;
/// The unit of the wide form as a power of two.
const UNIT_EXPONENT: i32 = -1074;

/// A sum of weighted doubles without rounding errors.
#[derive(Clone, PartialEq)]
pub struct ExactSum {
    finite: Finite,
    special: Option<Box<Special>>,
}

/// The sum of the finite values.
#[derive(Clone)]
enum Finite {
    /// `value * 2^exponent`; `exponent` is at least [`UNIT_EXPONENT`].
    Small { value: i128, exponent: i16 },
    /// Two's complement, least significant word first, in units of 2^-1074.
    Wide(Box<[u64; WORDS]>),
}

/// Weights of the values that are not finite.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Special {
    nan: i64,
    positive: i64,
    negative: i64,
}

/// The bytes are not an encoded sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an encoded exact sum")]
pub struct CorruptSum;

impl Default for ExactSum {
    fn default() -> Self {
        Self { finite: Finite::ZERO, special: None }
    }
}

impl ExactSum {
    /// Adds `number` `weight` times; a negative weight takes it away. NaNs are all alike.
    pub fn add(&mut self, number: f64, weight: i64) {
        if weight == 0 {
            return;
        }
        if !number.is_finite() {
            self.add_special(Special {
                nan: if number.is_nan() { weight } else { 0 },
                positive: if number == f64::INFINITY { weight } else { 0 },
                negative: if number == f64::NEG_INFINITY { weight } else { 0 },
            });
            return;
        }
        let (mantissa, exponent) = decompose(number);
        if mantissa != 0 {
            // At most 53 + 64 bits.
            self.finite.add(i128::from(mantissa) * i128::from(weight), exponent);
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        match &other.finite {
            Finite::Small { value, exponent } => self.finite.add(*value, i32::from(*exponent)),
            Finite::Wide(words) => {
                let wide = self.finite.widen();
                add_words(wide, words.as_slice());
            }
        }
        if let Some(special) = &other.special {
            self.add_special(**special);
        }
    }

    /// Takes another sum away.
    pub fn subtract(&mut self, other: &ExactSum) {
        match &other.finite {
            Finite::Small { value, exponent } => match value.checked_neg() {
                Some(negated) => self.finite.add(negated, i32::from(*exponent)),
                None => self.subtract_words(other.finite.clone().widen()),
            },
            Finite::Wide(words) => self.subtract_words(words),
        }
        if let Some(special) = &other.special {
            self.add_special(Special {
                nan: special.nan.wrapping_neg(),
                positive: special.positive.wrapping_neg(),
                negative: special.negative.wrapping_neg(),
            });
        }
    }

    fn subtract_words(&mut self, words: &[u64; WORDS]) {
        let mut negated = *words;
        negate(&mut negated);
        add_words(self.finite.widen(), &negated);
    }

    /// The sum, rounded once, to nearest, ties to even. 0.0 is never negative. NaN when there is a NaN or
    /// infinities of both signs.
    pub fn value(&self) -> f64 {
        if let Some(special) = &self.special {
            return match (special.nan != 0, special.positive != 0, special.negative != 0) {
                (true, _, _) | (_, true, true) => f64::NAN,
                (_, true, false) => f64::INFINITY,
                (_, false, true) => f64::NEG_INFINITY,
                (false, false, false) => self.finite.round(),
            };
        }
        self.finite.round()
    }

    /// Whether nothing is left: a finite part of zero and no weight of infinities and NaN.
    pub fn is_zero(&self) -> bool {
        self.special.is_none() && self.finite.is_zero()
    }

    /// Appends the canonical encoding: equal sums have equal bytes. Typical sums take 6 to 15 bytes, zero takes 1.
    ///
    /// Layout: a tag byte (bit 0: a finite part follows; bit 1: weights of NaN, +inf, -inf follow); the finite part is
    /// a little-endian `i16` exponent, a `u16` length and that many bytes of two's complement, least significant
    /// first; the weights are three little-endian `i64`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let finite = self.finite.canonical();
        let tag = u8::from(finite.is_some()) | (u8::from(self.special.is_some()) << 1);
        bytes.push(tag);
        if let Some((exponent, digits)) = finite {
            bytes.extend_from_slice(&exponent.to_le_bytes());
            // At most WORDS * 8 bytes.
            bytes.extend_from_slice(&(digits.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&digits);
        }
        if let Some(special) = &self.special {
            for weight in [special.nan, special.positive, special.negative] {
                bytes.extend_from_slice(&weight.to_le_bytes());
            }
        }
    }

    /// Reads what [`ExactSum::encode`] wrote from the front of `bytes`, and moves `bytes` past it.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, CorruptSum> {
        let [tag] = take::<1>(bytes)?;
        let mut sum = ExactSum::default();
        if tag & 1 != 0 {
            let exponent = i16::from_le_bytes(take::<2>(bytes)?);
            let length = usize::from(u16::from_le_bytes(take::<2>(bytes)?));
            if i32::from(exponent) < UNIT_EXPONENT || length > WORDS * 8 || bytes.len() < length {
                return Err(CorruptSum);
            }
            let (digits, rest) = bytes.split_at(length);
            *bytes = rest;
            sum.finite = Finite::from_canonical(exponent, digits)?;
        }
        if tag & 2 != 0 {
            let special = Special {
                nan: i64::from_le_bytes(take::<8>(bytes)?),
                positive: i64::from_le_bytes(take::<8>(bytes)?),
                negative: i64::from_le_bytes(take::<8>(bytes)?),
            };
            sum.add_special(special);
        }
        if tag > 3 { Err(CorruptSum) } else { Ok(sum) }
    }

    /// Bytes on the heap, beside the struct itself.
    pub fn heap_bytes(&self) -> usize {
        let wide = if matches!(self.finite, Finite::Wide(_)) { WORDS * 8 } else { 0 };
        wide + if self.special.is_some() { size_of::<Special>() } else { 0 }
    }

    fn add_special(&mut self, added: Special) {
        let mut special = self.special.take().map(|s| *s).unwrap_or_default();
        special.nan = special.nan.wrapping_add(added.nan);
        special.positive = special.positive.wrapping_add(added.positive);
        special.negative = special.negative.wrapping_add(added.negative);
        if special != Special::default() {
            self.special = Some(Box::new(special));
        }
    }
}

impl fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactSum({})", self.value())
    }
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Finite {
    const ZERO: Finite = Finite::Small { value: 0, exponent: 0 };

    fn add(&mut self, added: i128, added_exponent: i32) {
        if added == 0 {
            return;
        }
        if let Finite::Small { value, exponent } = self {
            if *value == 0 {
                *value = added;
                // Exponents of doubles and of sums made from them fit 16 bits.
                *exponent = added_exponent as i16;
                return;
            }
            let common = added_exponent.min(i32::from(*exponent));
            let sum = shift_exact(*value, i32::from(*exponent) - common)
                .zip(shift_exact(added, added_exponent - common))
                .and_then(|(a, b)| a.checked_add(b));
            if let Some(sum) = sum {
                *value = sum;
                *exponent = common as i16;
                return;
            }
        }
        let words = self.widen();
        add_shifted(words, added, (added_exponent - UNIT_EXPONENT) as usize);
        if let Some(small) = Finite::small_of(words) {
            *self = small;
        }
    }

    /// Turns into the wide form, and gives its words.
    fn widen(&mut self) -> &mut [u64; WORDS] {
        if let Finite::Small { value, exponent } = *self {
            let mut words = Box::new([0; WORDS]);
            add_shifted(&mut words, value, (i32::from(exponent) - UNIT_EXPONENT) as usize);
            *self = Finite::Wide(words);
        }
        match self {
            Finite::Wide(words) => words,
            Finite::Small { .. } => unreachable!("made wide above"),
        }
    }

    /// The small form of a wide number that fits it.
    fn small_of(words: &[u64; WORDS]) -> Option<Finite> {
        let Some(first) = words.iter().position(|word| *word != 0) else {
            return Some(Finite::ZERO);
        };
        let sign = if words[WORDS - 1] >> 63 == 1 { u64::MAX } else { 0 };
        let last = words.iter().rposition(|word| *word != sign).unwrap_or(first);
        let low = first * 64 + words[first].trailing_zeros() as usize;
        // One bit of sign above the highest significant one.
        let high = last * 64 + 64 - (words[last] ^ sign).leading_zeros() as usize;
        if high.max(low) - low > 120 {
            return None;
        }
        let value = u128::from(window(words, low, sign)) | (u128::from(window(words, low + 64, sign)) << 64);
        Some(Finite::Small { value: value as i128, exponent: (low as i32 + UNIT_EXPONENT) as i16 })
    }

    fn is_zero(&self) -> bool {
        match self {
            Finite::Small { value, .. } => *value == 0,
            Finite::Wide(words) => words.iter().all(|word| *word == 0),
        }
    }

    fn round(&self) -> f64 {
        match self {
            // `as` rounds to nearest even. The scaling is exact: a subnormal result has fewer than 53 significant
            // bits, since all is a multiple of the least subnormal; overflow is infinite, as it should be.
            Finite::Small { value, exponent } => scale(*value as f64, i32::from(*exponent)),
            Finite::Wide(words) => {
                if let Some(small) = Finite::small_of(words) {
                    return small.round();
                }
                let negative = words[WORDS - 1] >> 63 == 1;
                let mut magnitude = **words;
                if negative {
                    negate(&mut magnitude);
                }
                let top = match magnitude.iter().rposition(|word| *word != 0) {
                    Some(word) => word * 64 + 63 - magnitude[word].leading_zeros() as usize,
                    None => return 0.0,
                };
                // More than 120 bits: the top 64, the lowest of which stands for all below it.
                let low = top - 63;
                let below = magnitude[..low / 64].iter().any(|word| *word != 0)
                    || magnitude[low / 64] & ((1u64 << (low % 64)) - 1) != 0;
                let digits = window(&magnitude, low, 0) | u64::from(below);
                let rounded = scale(digits as f64, low as i32 + UNIT_EXPONENT);
                if negative { -rounded } else { rounded }
            }
        }
    }

    /// Exponent of the lowest set bit, and the bytes above it, least significant first and as few as tell the sign.
    /// None for zero.
    fn canonical(&self) -> Option<(i16, Vec<u8>)> {
        let (exponent, mut bytes) = match self {
            Finite::Small { value: 0, .. } => return None,
            Finite::Small { value, exponent } => {
                let zeros = value.trailing_zeros();
                (*exponent + zeros as i16, (value >> zeros).to_le_bytes().to_vec())
            }
            Finite::Wide(words) => {
                let first = words.iter().position(|word| *word != 0)?;
                let low = first * 64 + words[first].trailing_zeros() as usize;
                let sign = if words[WORDS - 1] >> 63 == 1 { u64::MAX } else { 0 };
                let bytes = (0..WORDS - first).flat_map(|i| window(words, low + i * 64, sign).to_le_bytes()).collect();
                ((low as i32 + UNIT_EXPONENT) as i16, bytes)
            }
        };
        while let [.., before, last] = bytes[..] {
            let redundant = (last == 0 && before < 0x80) || (last == 0xff && before >= 0x80);
            if !redundant {
                break;
            }
            bytes.pop();
        }
        Some((exponent, bytes))
    }

    fn from_canonical(exponent: i16, digits: &[u8]) -> Result<Finite, CorruptSum> {
        let Some(last) = digits.last() else {
            return Err(CorruptSum);
        };
        let fill = if *last >= 0x80 { 0xff } else { 0 };
        if digits.len() <= 16 {
            let mut bytes = [fill; 16];
            bytes[..digits.len()].copy_from_slice(digits);
            return Ok(Finite::Small { value: i128::from_le_bytes(bytes), exponent });
        }
        let mut words = Box::new([0u64; WORDS]);
        let shift = (i32::from(exponent) - UNIT_EXPONENT) as usize;
        for (index, digit) in digits.iter().enumerate() {
            let last = index + 1 == digits.len();
            let part = if last { i128::from(*digit as i8) } else { i128::from(*digit) };
            add_shifted(&mut words, part, shift + index * 8);
        }
        Ok(Finite::Wide(words))
    }
}

/// Mantissa with its sign, and the power of two it counts; odd mantissas only, so that sums start as small as they can.
fn decompose(number: f64) -> (i64, i32) {
    let bits = number.to_bits();
    let biased = ((bits >> 52) & 0x7ff) as i32;
    let fraction = (bits & ((1 << 52) - 1)) as i64;
    let (mantissa, exponent) =
        if biased == 0 { (fraction, UNIT_EXPONENT) } else { (fraction | (1 << 52), biased - 1075) };
    if mantissa == 0 {
        return (0, 0);
    }
    let zeros = mantissa.trailing_zeros();
    let odd = mantissa >> zeros;
    (if number < 0.0 { -odd } else { odd }, exponent + zeros as i32)
}

/// `value << by`, when no bit is lost.
fn shift_exact(value: i128, by: i32) -> Option<i128> {
    // A bit is kept for the sum's carry by checked_add; here the sign must survive.
    if by >= 127 {
        return None;
    }
    let shifted = value << by;
    (shifted >> by == value).then_some(shifted)
}

/// `number * 2^exponent` for exponents from -1074 up.
fn scale(number: f64, exponent: i32) -> f64 {
    if number == 0.0 {
        return 0.0;
    }
    if exponent > 1023 {
        return number * f64::INFINITY;
    }
    let power = if exponent < -1022 {
        f64::from_bits(1 << (exponent - UNIT_EXPONENT))
    } else {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    };
    number * power
}

/// 64 bits of `words` from bit `low`; beyond the end there is only `sign`.
fn window(words: &[u64; WORDS], low: usize, sign: u64) -> u64 {
    let word = |index: usize| words.get(index).copied().unwrap_or(sign);
    let (index, shift) = (low / 64, low % 64);
    if shift == 0 { word(index) } else { (word(index) >> shift) | (word(index + 1) << (64 - shift)) }
}

/// Adds `value << shift`, wrapping at the top (which no sum of doubles reaches).
fn add_shifted(words: &mut [u64; WORDS], value: i128, shift: usize) {
    let (index, bits) = (shift / 64, shift % 64);
    let low = value as u128;
    let sign = if value < 0 { u64::MAX } else { 0 };
    let parts = [low as u64, (low >> 64) as u64, sign];
    let mut carry = false;
    let mut below = 0u64;
    for (position, word) in words.iter_mut().enumerate().skip(index) {
        let part = parts.get(position - index).copied().unwrap_or(sign);
        let shifted = if bits == 0 { part } else { (part << bits) | (below >> (64 - bits)) };
        below = part;
        let (sum, first) = word.overflowing_add(shifted);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        carry = first || second;
        *word = sum;
    }
}

fn add_words(words: &mut [u64; WORDS], added: &[u64]) {
    let mut carry = false;
    for (word, part) in words.iter_mut().zip(added) {
        let (sum, first) = word.overflowing_add(*part);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        carry = first || second;
        *word = sum;
    }
}

fn negate(words: &mut [u64; WORDS]) {
    let mut carry = true;
    for word in words {
        let (sum, next) = (!*word).overflowing_add(u64::from(carry));
        carry = next;
        *word = sum;
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], CorruptSum> {
    let (front, rest) = bytes.split_first_chunk::<N>().ok_or(CorruptSum)?;
    *bytes = rest;
    Ok(*front)
}

#[cfg(test)]
mod tests {
    use super::ExactSum;

    fn sum(numbers: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for number in numbers {
            sum.add(*number, 1);
        }
        sum
    }

    /// Doubles of all magnitudes, by a fixed linear congruential sequence.
    fn numbers(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        (0..count)
            .map(|index| {
                let bits = next() ^ (next() >> 32);
                let number = match index % 4 {
                    0 => f64::from_bits(bits),
                    1 => (bits >> 40) as f64 / 100.0,
                    2 => f64::from_bits(bits & !(0x7ff << 52)),
                    _ => f64::from_bits((bits & !(0x7ff << 52)) | (1000 + (bits >> 59)) << 52),
                };
                if number.is_finite() { number } else { 1.0 }
            })
            .collect()
    }

    #[test]
    fn cancellation_loses_nothing() {
        assert_eq!(sum(&[1e16, 1.0, -1e16]).value(), 1.0);
        assert_eq!(sum(&[1e308, 1e308, -1e308, 5e-324, -1e308]).value(), 5e-324);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]).value(), f64::MAX);
        assert!(sum(&[-0.0, -0.0]).value().is_sign_positive());
    }

    #[test]
    fn ties_round_to_even_and_a_crumb_breaks_them() {
        let half = f64::EPSILON / 2.0;
        assert_eq!(sum(&[1.0, half]).value(), 1.0);
        assert_eq!(sum(&[1.0, half, 5e-324]).value(), 1.0 + f64::EPSILON);
        assert_eq!(sum(&[1.0, half, -5e-324]).value(), 1.0);
        assert_eq!(sum(&[-1.0, -half, -5e-324]).value(), -1.0 - f64::EPSILON);
    }

    #[test]
    fn any_order_and_any_grouping_give_the_same_bytes() {
        for seed in 0..50 {
            let numbers = numbers(seed, 60);
            let whole = sum(&numbers);
            let mut reversed = numbers.clone();
            reversed.reverse();
            let mut merged = sum(&numbers[..17]);
            merged.merge(&sum(&numbers[17..]));
            let encode = |sum: &ExactSum| {
                let mut bytes = Vec::new();
                sum.encode(&mut bytes);
                bytes
            };
            assert_eq!(encode(&whole), encode(&sum(&reversed)), "seed {seed}");
            assert_eq!(encode(&whole), encode(&merged), "seed {seed}");
            assert_eq!(whole.value().to_bits(), merged.value().to_bits());
            merged.subtract(&sum(&numbers[..17]));
            assert_eq!(encode(&merged), encode(&sum(&numbers[17..])), "seed {seed}");
            merged.subtract(&sum(&numbers[17..]));
            assert!(merged.is_zero(), "seed {seed}");
            let bytes = encode(&whole);
            let mut rest = bytes.as_slice();
            let decoded = ExactSum::decode(&mut rest).unwrap();
            assert!(rest.is_empty());
            assert_eq!(encode(&decoded), bytes);
            assert_eq!(decoded.value().to_bits(), whole.value().to_bits());
        }
    }

    #[test]
    fn what_is_taken_away_leaves_nothing() {
        for seed in 0..50 {
            let numbers = numbers(seed + 1000, 40);
            let mut sum = ExactSum::default();
            for (index, number) in numbers.iter().enumerate() {
                sum.add(*number, index as i64 * (i64::MAX / 40));
            }
            for (index, number) in numbers.iter().enumerate().rev() {
                sum.add(*number, -(index as i64 * (i64::MAX / 40)));
            }
            assert!(sum.is_zero(), "seed {seed}");
            let mut bytes = Vec::new();
            sum.encode(&mut bytes);
            assert_eq!(bytes, [0]);
        }
    }

    #[test]
    fn sums_of_whole_numbers_agree_with_integers() {
        let mut state = 7u64;
        let (mut exact, mut reference) = (ExactSum::default(), 0i128);
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (number, weight) = ((state >> 12) as i64 - (1 << 51), (state % 1000) as i64 - 500);
            exact.add(number as f64, weight);
            reference += i128::from(number) * i128::from(weight);
            assert_eq!(exact.value(), reference as f64);
        }
    }

    #[test]
    fn infinities_and_nan_come_and_go() {
        let mut sum = sum(&[1.5, f64::INFINITY]);
        assert_eq!(sum.value(), f64::INFINITY);
        sum.add(f64::NEG_INFINITY, 1);
        assert!(sum.value().is_nan());
        sum.add(f64::INFINITY, -1);
        assert_eq!(sum.value(), f64::NEG_INFINITY);
        sum.add(f64::NEG_INFINITY, -1);
        sum.add(f64::NAN, 2);
        assert!(sum.value().is_nan());
        sum.add(-f64::NAN, -2);
        assert_eq!(sum.value(), 1.5);
    }

    #[test]
    fn typical_sums_are_small() {
        let sum = sum(&[12.34, 0.99, 1_000_000.25, 49.95]);
        let mut bytes = Vec::new();
        sum.encode(&mut bytes);
        assert!(bytes.len() <= 16, "{}", bytes.len());
        assert_eq!(sum.heap_bytes(), 0);
    }

    #[test]
    fn cut_bytes_are_refused() {
        let mut bytes = Vec::new();
        sum(&[0.1, f64::NAN]).encode(&mut bytes);
        for length in 0..bytes.len() {
            assert!(ExactSum::decode(&mut &bytes[..length]).is_err());
        }
    }
}
