//! Mistakes in a user's folder: what is wrong, where exactly, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How bad a mistake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The project cannot run.
    Error,
    /// The project runs; somebody should look.
    Warning,
}

/// A file of the project as it was read; shared by all the mistakes that point into it.
#[derive(Clone, PartialEq, Eq)]
pub struct FileText(Arc<(PathBuf, String)>);

impl FileText {
    /// A file by its path relative to the project's folder, and its contents.
    pub fn new(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self(Arc::new((file.into(), text.into())))
    }

    /// Path relative to the project's folder.
    pub fn file(&self) -> &Path {
        &self.0.0
    }

    /// The contents.
    pub fn text(&self) -> &str {
        &self.0.1
    }

    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let text = self.text();
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        (line as u32, before[line_start..].chars().count() as u32 + 1)
    }

    /// Byte offset of a line and column as [`FileText::position`] counts them.
    pub fn offset(&self, line: u32, column: u32) -> usize {
        let mut start = 0;
        for (number, content) in self.text().split_inclusive('\n').enumerate() {
            if number as u32 + 1 == line {
                let within: usize = content.chars().take(column.saturating_sub(1) as usize).map(char::len_utf8).sum();
                return start + within;
            }
            start += content.len();
        }
        self.text().len()
    }
}

impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileText({})", self.file().display())
    }
}

/// One mistake. Reading a project collects all of them; nothing stops at the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Stable name of the kind of mistake, one of [`CODES`].
    pub code: &'static str,
    /// Whether the project can run all the same.
    pub severity: Severity,
    /// Path relative to the project's folder.
    pub file: PathBuf,
    /// Line from 1; 0 when the mistake concerns the file as a whole.
    pub line: u32,
    /// Column from 1, in characters; 0 when the mistake concerns the file as a whole.
    pub column: u32,
    /// How many characters of the line are meant; at least 1 where there is a line.
    pub length: u32,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The file's contents, for showing the line.
    pub text: Option<FileText>,
}

impl Mistake {
    /// An error at a byte range of a file. An empty range means one character.
    pub fn at(text: &FileText, span: Range<usize>, code: &'static str, message: impl Into<String>) -> Self {
        let (line, column) = text.position(span.start);
        let bytes = text.text().as_bytes();
        let end = span.end.min(bytes.len()).max(span.start.min(bytes.len()));
        let covered = String::from_utf8_lossy(&bytes[span.start.min(bytes.len())..end]);
        let length = covered.lines().next().unwrap_or("").chars().count().max(1);
        Self {
            code,
            severity: Severity::Error,
            file: text.file().to_path_buf(),
            line,
            column,
            length: length as u32,
            message: message.into(),
            hint: None,
            text: Some(text.clone()),
        }
    }

    /// An error that concerns a file or folder as a whole.
    pub fn of_file(file: impl Into<PathBuf>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            length: 0,
            message: message.into(),
            hint: None,
            text: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a hint where there is one.
    #[must_use]
    pub fn hint_maybe(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same with stars in place of what it points at, so that reports do not repeat a password.
    #[must_use]
    pub fn hidden(self) -> Self {
        let Some(text) = &self.text else { return self };
        let start = text.offset(self.line, self.column);
        let end = text.offset(self.line, self.column + self.length);
        let stars = "*".repeat(self.length as usize);
        let masked = format!("{}{stars}{}", &text.text()[..start], &text.text()[end..]);
        let masked = FileText::new(text.file(), masked);
        Self { text: Some(masked), ..self }
    }

    /// Whether it stops the project from running.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The line it points to, without its end.
    pub fn source_line(&self) -> Option<&str> {
        let text = self.text.as_ref()?;
        if self.line == 0 {
            return None;
        }
        text.text().lines().nth(self.line as usize - 1)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every code with what it means.
pub const CODES: &[(&str, &str)] = &[
    ("bad_name", "a file's name cannot be the name of a relation"),
    ("bad_value", "a value cannot be read as what it should be"),
    ("cycle", "models that read each other in a circle"),
    ("duplicate_name", "two files define one name"),
    ("empty_model", "a model file without a SELECT"),
    ("literal_secret", "a password written down in a file"),
    ("missing_key", "an entry that has to be there is not"),
    ("needs_key", "the destination needs to know what identifies a row"),
    ("no_settings", "the folder has no weir.toml"),
    ("not_deterministic", "an expression whose value depends on a clock or on chance"),
    ("not_incremental", "a model that cannot be kept up to date incrementally"),
    ("sql_syntax", "SQL that cannot be parsed"),
    ("toml_syntax", "TOML that cannot be parsed"),
    ("type_mismatch", "an expression whose types do not fit"),
    ("unbounded_state", "a model that remembers ever more for as long as rows come in"),
    ("unfed_model", "a model that no source feeds"),
    ("unknown_column", "a column that the relation does not have"),
    ("unknown_file", "a file or folder that means nothing to Weir"),
    ("unknown_function", "a function that does not exist"),
    ("unknown_key", "an entry that does not exist here"),
    ("unknown_profile", "a profile without its file"),
    ("unknown_relation", "a relation that no file defines"),
    ("unreachable", "something outside that is not there (with --connect)"),
    ("unreadable", "a file or folder that cannot be read"),
    ("unsupported", "something that this version of Weir does not do yet"),
    ("wrong_type", "a value of another TOML type than expected"),
];

/// "did you mean `x`?" for the candidate nearest to `wrong`, if one is near.
pub fn did_you_mean<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(wrong, candidates).map(|best| format!("did you mean `{best}`?"))
}

/// The candidate nearest to `wrong`, if one is near enough to be meant.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wrong, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(wrong.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
