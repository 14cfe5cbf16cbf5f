//! Which field an object's key means, guessed from where it stood in the last record.

use std::collections::HashMap;

/// Positions within an object that are guessed; keys further behind are looked up.
const GUESSES_MAX: usize = 256;

/// Finds names of fields in JSON text.
///
/// Records of one source mostly have the same keys in the same order. So for each position within the object the
/// key seen there last is kept as it was written, quotes included, and one comparison of bytes finds the field
/// without reading the key first.
#[derive(Debug)]
pub(crate) struct Keys {
    by_name: HashMap<Box<[u8]>, usize>,
    guesses: Vec<Guess>,
}

#[derive(Debug, Clone)]
struct Guess {
    /// The key as written, in its quotes.
    token: Vec<u8>,
    field: Option<usize>,
}

impl Keys {
    /// Fields by their names, numbered in this order.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut by_name = HashMap::new();
        let mut guesses = Vec::new();
        for (field, name) in names.enumerate() {
            by_name.entry(name.as_bytes().into()).or_insert(field);
            if guesses.len() < GUESSES_MAX && !name.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
                guesses.push(Guess { token: format!("\"{name}\"").into_bytes(), field: Some(field) });
            }
        }
        Self { by_name, guesses }
    }

    /// If `text` starts with the key that was at this position last: the field it means and the key's length in
    /// bytes, quotes included.
    #[inline]
    pub fn guess(&self, position: usize, text: &[u8]) -> Option<(Option<usize>, usize)> {
        let guess = self.guesses.get(position)?;
        text.starts_with(&guess.token).then_some((guess.field, guess.token.len()))
    }

    /// The field of that name.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Notes that `token`, a key in its quotes, was at this position and means `field`.
    pub fn learn(&mut self, position: usize, token: &[u8], field: Option<usize>) {
        if position >= GUESSES_MAX || token.len() > 128 {
            return;
        }
        if self.guesses.len() <= position {
            // What fills a gap is no JSON key, so that it never matches.
            self.guesses.resize(position + 1, Guess { token: vec![0], field: None });
        }
        let guess = &mut self.guesses[position];
        guess.token.clear();
        guess.token.extend_from_slice(token);
        guess.field = field;
    }
}
