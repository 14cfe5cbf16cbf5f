//! Rust source for the house rules: which lines are code, which are tests, which carry a comment.

use std::path::Path;

/// A line of a source file.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// The line with strings and comments taken out.
    pub code: String,
    /// Whether a comment stands on it.
    pub comment: bool,
    /// Whether it belongs to a test, a benchmark or an example.
    pub test: bool,
}

/// Splits `text`, the file at `path`, into lines.
pub fn lines(path: &Path, text: &str) -> Vec<Line> {
    let mut lines = without_strings_and_comments(text);
    let all_test =
        path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches" | "examples")))
            || path.file_name().is_some_and(|name| name == "tests.rs");
    if all_test {
        lines.iter_mut().for_each(|line| line.test = true);
    } else {
        mark_test_items(&mut lines);
    }
    lines
}

enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

fn without_strings_and_comments(text: &str) -> Vec<Line> {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut index = 0;
    while index < characters.len() {
        let character = characters[index];
        if character == '\n' {
            lines.push(Line::default());
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            index += 1;
            continue;
        }
        let last = lines.len() - 1;
        let line = &mut lines[last];
        let mut taken = 1;
        match state {
            State::Code => match character {
                '/' if at(index + 1) == '/' => {
                    line.comment = true;
                    state = State::LineComment;
                }
                '/' if at(index + 1) == '*' => {
                    line.comment = true;
                    state = State::BlockComment(1);
                    taken = 2;
                }
                '"' => {
                    line.code.push('"');
                    state = State::Text;
                }
                'r' if !line.code.ends_with(is_word) || line.code.ends_with('b') => {
                    let hashes = (index + 1..).take_while(|&next| at(next) == '#').count();
                    if at(index + 1 + hashes) == '"' {
                        line.code.push('"');
                        state = State::RawText(hashes);
                        taken = 2 + hashes;
                    } else {
                        line.code.push(character);
                    }
                }
                // A character, not a lifetime: 'x' or an escape.
                '\'' if at(index + 1) == '\\' => {
                    taken = 3 + (index + 3..).take_while(|&next| !matches!(at(next), '\'' | '\n' | '\0')).count() + 1;
                    line.code.push_str("' '");
                }
                '\'' if at(index + 2) == '\'' => {
                    taken = 3;
                    line.code.push_str("' '");
                }
                _ => line.code.push(character),
            },
            State::LineComment => {}
            State::BlockComment(depth) => {
                line.comment = true;
                if character == '*' && at(index + 1) == '/' {
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                    taken = 2;
                } else if character == '/' && at(index + 1) == '*' {
                    state = State::BlockComment(depth + 1);
                    taken = 2;
                }
            }
            State::Text => match character {
                // An escaped line end keeps its line.
                '\\' if at(index + 1) != '\n' => taken = 2,
                '"' => {
                    line.code.push('"');
                    state = State::Code;
                }
                _ => {}
            },
            State::RawText(hashes) => {
                if character == '"' && (1..=hashes).all(|next| at(index + next) == '#') {
                    line.code.push('"');
                    state = State::Code;
                    taken = 1 + hashes;
                }
            }
        }
        index += taken;
    }
    lines
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// From an attribute `#[cfg(test)]` to the end of the item behind it.
fn mark_test_items(lines: &mut [Line]) {
    let mut index = 0;
    while index < lines.len() {
        if !lines[index].code.contains("#[cfg(test)]") {
            index += 1;
            continue;
        }
        let mut depth = 0;
        let mut opened = false;
        while index < lines.len() {
            lines[index].test = true;
            let code = lines[index].code.replace("#[cfg(test)]", "");
            for character in code.chars() {
                match character {
                    '{' => {
                        depth += 1;
                        opened = true;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            index += 1;
            let ended_without_body = !opened && code.trim_end().ends_with(';');
            if (opened && depth == 0) || ended_without_body {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<Line> {
        lines(Path::new("src/lib.rs"), text)
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        let lines =
            split("let a = \"x.unwrap() // \\\" y\"; // why\nlet b = r#\"// \"no\" \"#.len();\n/* a\nb */ c();");
        assert_eq!(lines[0].code, "let a = \"\"; ");
        assert!(lines[0].comment);
        assert_eq!(lines[1].code, "let b = \"\".len();");
        assert!(!lines[1].comment);
        assert_eq!(lines[3].code, " c();");
    }

    #[test]
    fn characters_and_lifetimes_are_told_apart() {
        let lines = split("fn f<'a>(x: &'a str) { x == '\"' || y == '\\'' || z == '\\u{1F600}' }\nnext");
        assert_eq!(lines[0].code, "fn f<'a>(x: &'a str) { x == ' ' || y == ' ' || z == ' ' }");
        assert_eq!(lines[1].code, "next");
    }

    #[test]
    fn a_test_module_ends_with_its_brace() {
        let lines = split(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}",
        );
        let tests: Vec<bool> = lines.iter().map(|line| line.test).collect();
        assert_eq!(tests, [false, true, true, true, true, false, true, true, false]);
    }
}
