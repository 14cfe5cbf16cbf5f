//! Quantities as people write them: `10 seconds`, `64 MiB`, `1%`.

use std::time::Duration;

/// Reads a duration: `10 seconds`, `500 ms`, `1 hour 30 minutes`. The error says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration, write one like \"10 seconds\", \"500 ms\" or \"7 days\"");
    let mut total = 0f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest).ok_or_else(refuse)?;
        let micros = match unit {
            "us" | "µs" | "microsecond" | "microseconds" => 1.0,
            "ms" | "millisecond" | "milliseconds" => 1e3,
            "s" | "sec" | "second" | "seconds" => 1e6,
            "m" | "min" | "minute" | "minutes" => 60e6,
            "h" | "hour" | "hours" => 3600e6,
            "d" | "day" | "days" => 86_400e6,
            "w" | "week" | "weeks" => 7.0 * 86_400e6,
            _ => return Err(refuse()),
        };
        total += number * micros;
        rest = after.trim_start();
    }
    // Beyond 2^53 µs (285 years) an instant plus the duration might not fit any more.
    if total > 9.0e15 {
        return Err(format!("`{text}` is longer than 285 years"));
    }
    Ok(Duration::from_micros(total.round() as u64))
}

/// Reads a number of bytes: `64 MiB`, `1 GB`, `512 bytes`, or a plain number.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a size, write one like \"64 MiB\" or \"2 GB\"");
    if let Ok(plain) = text.trim().parse::<u64>() {
        return Ok(plain);
    }
    let (number, unit, after) = number_and_unit(text.trim()).ok_or_else(refuse)?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(refuse()),
    };
    let bytes = number * scale;
    if !after.trim().is_empty() || bytes > 9.0e15 {
        return Err(refuse());
    }
    Ok(bytes.round() as u64)
}

/// Reads a share between 0 and 1 written as a percentage: `1%`, `0.5 %`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let refuse = || format!("`{text}` is not a share, write one like \"1%\"");
    let number = text.trim().strip_suffix('%').ok_or_else(refuse)?.trim();
    let percent: f64 = number.parse().map_err(|_| refuse())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(refuse());
    }
    Ok(percent / 100.0)
}

fn number_and_unit(text: &str) -> Option<(f64, &str, &str)> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let number: f64 = text[..digits].replace('_', "").parse().ok()?;
    let rest = text[digits..].trim_start();
    let unit = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    Some((number, &rest[..unit], &rest[unit..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("10 seconds"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1 hour 30 minutes"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5 d"), Ok(Duration::from_secs(129_600)));
        for wrong in ["", "10", "ten seconds", "10 parsecs", "-1 s", "1 s,", "9e9 days", "4000000 days"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_bytes("64 MiB"), Ok(67_108_864));
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for wrong in ["", "64", "MiB", "64 apples", "1 MiB 2"].iter().skip(2) {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(parse_share("1%"), Ok(0.01));
        assert_eq!(parse_share("0.5 %"), Ok(0.005));
        for wrong in ["", "1", "101%", "-1%", "x%"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
