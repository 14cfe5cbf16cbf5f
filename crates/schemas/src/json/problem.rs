//! Why a record is not admitted, gathered on the way out of nested values.

use std::fmt::Write;

/// The result of reading a part of a record.
pub(crate) type Outcome<T = ()> = Result<T, Box<Problem>>;

/// What is wrong with a record, and where.
#[derive(Debug)]
pub(crate) struct Problem {
    pub reason: &'static str,
    /// Steps to the value, the innermost first.
    pub path: Vec<Step>,
    pub message: String,
    /// Where the offending value starts in the record; its text is shown.
    pub value_at: Option<usize>,
}

#[derive(Debug)]
pub(crate) enum Step {
    Field(String),
    Item(usize),
}

impl Problem {
    /// Of the record as a whole; the message says where.
    #[cold]
    pub fn of_record(reason: &'static str, message: String) -> Box<Self> {
        Box::new(Self { reason, path: Vec::new(), message, value_at: None })
    }

    /// The value that starts at byte `at` is not what is expected.
    #[cold]
    pub fn of_value(reason: &'static str, message: String, at: usize) -> Box<Self> {
        Box::new(Self { reason, path: Vec::new(), message, value_at: Some(at) })
    }

    /// The same problem, seen from one level further out.
    #[cold]
    pub fn within(mut self: Box<Self>, step: Step) -> Box<Self> {
        self.path.push(step);
        self
    }

    /// Whether the record is JSON and the problem is with what it says.
    pub fn is_about_values(&self) -> bool {
        !matches!(self.reason, "json_syntax" | "too_deep")
    }

    /// One sentence; `found` is the text of the value at `value_at`.
    pub fn sentence(&self, found: Option<&str>) -> String {
        let mut sentence = String::new();
        for (index, step) in self.path.iter().rev().enumerate() {
            let _ = match step {
                Step::Field(name) if index == 0 => write!(sentence, "{name}"),
                Step::Field(name) => write!(sentence, ".{name}"),
                Step::Item(item) => write!(sentence, "[{item}]"),
            };
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&self.message);
        if let (Some(found), Some(at)) = (found, self.value_at) {
            let _ = write!(sentence, ", found {} at byte {at}", shortened(found));
        }
        sentence
    }
}

/// The text, or its beginning if it is long, on one line.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
