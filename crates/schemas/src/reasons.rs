//! Every reason for which a record is set aside: its code in `weir.quarantine`, what it means, what to do.

/// A reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Short and stable; for grouping.
    pub code: &'static str,
    /// Whether what is set aside is a whole record, so that it can be sent through again.
    pub record: bool,
    /// What happened, and what to do.
    pub doc: &'static str,
}

const fn record(code: &'static str, doc: &'static str) -> Reason {
    Reason { code, record: true, doc }
}

const fn input(code: &'static str, doc: &'static str) -> Reason {
    Reason { code, record: false, doc }
}

/// All of them, sorted by code.
pub static REASONS: &[Reason] = &[
    record(
        "ahead",
        "The event's time lies further past its arrival than `ahead_max`: the sender's clock is wrong. No watermark \
         moves. Mend the clock, or raise `ahead_max`.",
    ),
    record(
        "clock_unset",
        "The event's time lies in the first days of 1970: the sender's clock was never set. Mend the clock, or leave \
         `time` out so that the arrival counts.",
    ),
    record("csv_syntax", "A quote is opened and not closed, or text follows a closing quote. Mend the file."),
    record(
        "enrich_failed",
        "An expression of `[enrich]` fails for this row; the message has the expression. Mend it, then `weir replay`.",
    ),
    record("field_count", "A line has more or fewer fields than the header names. Mend the file."),
    input(
        "file_changed",
        "A file is not what it was when it was read. What was read of it stays; the rest is not guessed at. Put the new \
         contents under a new name.",
    ),
    input("file_missing", "A file is gone before it was read to its end. What was read of it stays."),
    record("invalid_utf8", "The bytes are not UTF-8. Mend what writes them, or declare the column as BINARY."),
    record("json_syntax", "The record is not JSON; the message says at which byte. Mend what writes it."),
    record("missing", "A `required` column is missing or NULL. Mend what writes it, or drop `required`."),
    record("missing_time", "The column named by `time` is NULL. Mend what writes it, or leave `time` out."),
    record(
        "no_header",
        "The header line that names the fields is not known. Begin the file with one, or set `header = false`.",
    ),
    record("null_key", "A column of the source's `key` is NULL: a row without identity. Mend what writes it."),
    record(
        "out_of_range",
        "A number or time does not fit the column's type. Declare a wider type, then `weir replay`.",
    ),
    record(
        "record_too_long",
        "The record is longer than is read as one; its first bytes are kept. Cut it into records.",
    ),
    record(
        "syntax",
        "The line is not in the access log's format; the message says at which byte and what was expected.",
    ),
    record("too_deep", "The JSON is nested deeper than is read. Flatten it where it is written."),
    record("too_large", "The record, or what its column holds, is larger than a batch has room for. Make it smaller."),
    record("truncated", "The line ends too soon: it was cut off where it was written."),
    record(
        "unknown_field",
        "A field that the contract does not name, with `unknown_fields = \"refuse\"`. Add the column, or keep or drop such fields.",
    ),
    input(
        "unreadable_file",
        "A file cannot be read to its end: a compressed file that is cut short or damaged. What came before is taken in. Put a whole one under a new name.",
    ),
    record("unsupported_type", "A value of a type that this format cannot give. Declare another type."),
    record(
        "wrong_type",
        "A value is not of the column's type; the message says what was found. Mend what writes it, or declare the type that it has.",
    ),
];

/// The reason with that code.
pub fn reason(code: &str) -> Option<&'static Reason> {
    REASONS.binary_search_by(|reason| reason.code.cmp(code)).ok().map(|index| &REASONS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_code() {
        for known in REASONS {
            assert_eq!(reason(known.code), Some(known));
        }
        assert_eq!(reason("nothing"), None);
    }
}
