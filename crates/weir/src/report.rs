//! Mistakes as code frames: the file, the line, what is meant of it, and what to do. Colours only on a terminal.

use std::fmt::Write;
use std::io::IsTerminal;

use weir_project::{Mistake, Severity};

/// Tells mistakes on standard error.
pub fn mistakes(mistakes: &[Mistake]) {
    let paint = Paint::for_stderr();
    for mistake in mistakes {
        eprintln!("{}", frame(mistake, paint));
    }
}

/// Tells one error that has no place in a file on standard error.
pub fn error(message: &str) {
    let paint = Paint::for_stderr();
    eprintln!("{}: {message}", paint.in_colour(Colour::Red, "error"));
}

/// `1 mistake`, `2 mistakes`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// One mistake as a code frame, with a line end behind each line.
pub fn frame(mistake: &Mistake, paint: Paint) -> String {
    let (colour, word) = match mistake.severity {
        Severity::Error => (Colour::Red, "error"),
        Severity::Warning => (Colour::Yellow, "warning"),
    };
    let mut frame = String::new();
    let head = paint.in_colour(colour, &format!("{word}[{}]", mistake.code));
    // Writing to a string cannot fail.
    let _ = writeln!(frame, "{head}: {}", mistake.message);
    let number = mistake.line.to_string();
    let margin = if mistake.line > 0 { " ".repeat(number.len()) } else { " ".to_string() };
    let place = match mistake.line {
        0 => mistake.file.display().to_string(),
        line => format!("{}:{line}:{}", mistake.file.display(), mistake.column),
    };
    let _ = writeln!(frame, "{margin}{} {place}", paint.in_colour(Colour::Blue, "-->"));
    let bar = paint.in_colour(Colour::Blue, "|");
    if let Some(line) = mistake.source_line() {
        let line = line.replace('\t', " ");
        let before = " ".repeat(mistake.column.saturating_sub(1) as usize);
        let carets = "^".repeat(mistake.length.max(1) as usize);
        let _ = writeln!(frame, "{margin} {bar}");
        let _ = writeln!(frame, "{} {bar} {line}", paint.in_colour(Colour::Blue, &number));
        let _ = writeln!(frame, "{margin} {bar} {before}{}", paint.in_colour(colour, &carets));
    }
    if let Some(hint) = &mistake.hint {
        let _ = writeln!(frame, "{margin} {} {hint}", paint.in_colour(Colour::Blue, "= hint:"));
    }
    frame
}

#[derive(Debug, Clone, Copy)]
enum Colour {
    Red,
    Yellow,
    Blue,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// As standard error can: on a terminal, unless `NO_COLOR` is set.
    pub fn for_stderr() -> Self {
        Self(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn in_colour(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Red => "1;31",
            Colour::Yellow => "1;33",
            Colour::Blue => "1;34",
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_project::mistake::FileText;

    #[test]
    fn a_frame_shows_the_line_and_what_is_meant_of_it() {
        let text = FileText::new("models/revenue.sql", "-- Revenue.\nSELECT sum(amout)\nFROM orders\n");
        let start = text.text().find("amout").expect("it is there");
        let mistake = Mistake::at(&text, start..start + 5, "unknown_column", "there is no column `amout`")
            .hint("did you mean `amount`?");
        let expected = "\
error[unknown_column]: there is no column `amout`
 --> models/revenue.sql:2:12
  |
2 | SELECT sum(amout)
  |            ^^^^^
  = hint: did you mean `amount`?
";
        assert_eq!(frame(&mistake, Paint(false)), expected);
        assert!(frame(&mistake, Paint(true)).contains("\x1b[1;31m^^^^^\x1b[0m"));
    }
}
