//! Secrets: written as `${env:NAME}` or `${file:/path}`, resolved when needed, shown never.

use std::fmt;

/// A string that may name secrets. Shows the names, never what they stand for.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Template(String);

/// A resolved string. Neither `Debug` nor `Display` show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a template could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The environment has no such variable.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// The file cannot be read.
    #[error("the secret file {path} cannot be read: {reason}")]
    NoFile {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// Neither `env:` nor `file:`, or without its closing brace.
    #[error("`{0}` is not a secret, write ${{env:NAME}} or ${{file:/path}}")]
    Syntax(String),
}

enum Piece<'a> {
    Literal(&'a str),
    Variable(&'a str),
    File(&'a str),
}

impl Template {
    /// A template as written; an error when a `${...}` is malformed.
    pub fn parse(text: impl Into<String>) -> Result<Self, SecretError> {
        let template = Self(text.into());
        template.pieces()?;
        Ok(template)
    }

    /// As written.
    pub fn as_written(&self) -> &str {
        &self.0
    }

    /// Names of the environment variables it reads.
    pub fn variables(&self) -> Vec<&str> {
        let pieces = self.pieces().unwrap_or_default();
        pieces.iter().filter_map(|piece| if let Piece::Variable(name) = piece { Some(*name) } else { None }).collect()
    }

    /// Puts in the secrets, from this process's environment and files. A file's trailing line end is cut.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        self.resolve_with(&|name| std::env::var(name).ok(), &|path| {
            std::fs::read_to_string(path).map_err(|e| e.to_string())
        })
    }

    /// [`Template::resolve`] with other ways to look up variables and files.
    pub fn resolve_with(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        file: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<Secret, SecretError> {
        let mut resolved = String::new();
        for piece in self.pieces()? {
            match piece {
                Piece::Literal(text) => resolved.push_str(text),
                Piece::Variable(name) => {
                    resolved.push_str(&variable(name).ok_or_else(|| SecretError::NoVariable(name.to_string()))?);
                }
                Piece::File(path) => {
                    let content =
                        file(path).map_err(|reason| SecretError::NoFile { path: path.to_string(), reason })?;
                    resolved.push_str(content.trim_end_matches(['\r', '\n']));
                }
            }
        }
        Ok(Secret(resolved))
    }

    /// A password written down literally in a URL (`scheme://user:password@host`), as a byte range of the text.
    pub fn literal_password(&self) -> Option<std::ops::Range<usize>> {
        let text = &self.0;
        let start = text.find("://")? + 3;
        let authority_end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
        // A `${file:/path}` has slashes of its own: the last `@` of all is the safe one to look before.
        let at = text[start..]
            .rfind('@')
            .map(|at| start + at)
            .filter(|at| *at < authority_end || text[start..*at].contains("${"))?;
        let colon = text[start..at].find(':').map(|colon| start + colon)?;
        // `${env:USER}@host` has a colon but no password.
        if text[start..colon].contains("${") {
            let after = text[colon..at].find("}:").map(|close| colon + close + 2)?;
            return (!text[after..at].contains("${")).then_some(after..at);
        }
        let password = &text[colon + 1..at];
        (!password.is_empty() && !password.contains("${")).then_some(colon + 1..at)
    }

    fn pieces(&self) -> Result<Vec<Piece<'_>>, SecretError> {
        let mut pieces = Vec::new();
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find("${") {
            if open > 0 {
                pieces.push(Piece::Literal(&rest[..open]));
            }
            let close = rest[open..].find('}').ok_or_else(|| SecretError::Syntax(rest[open..].to_string()))? + open;
            let inside = &rest[open + 2..close];
            pieces.push(match inside.split_once(':') {
                Some(("env", name)) if !name.is_empty() => Piece::Variable(name),
                Some(("file", path)) if !path.is_empty() => Piece::File(path),
                _ => return Err(SecretError::Syntax(rest[open..=close].to_string())),
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest));
        }
        Ok(pieces)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.0)
    }
}

impl Secret {
    /// The secret itself: hand it to the service that needs it, and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_resolves_variables_and_files() {
        let template = Template::parse("postgres://u:${env:PASS}@${file:/run/host}/db").unwrap();
        let secret = template
            .resolve_with(&|name| (name == "PASS").then(|| "pw".into()), &|path| Ok(format!("{path}\n")))
            .unwrap();
        assert_eq!(secret.expose(), "postgres://u:pw@/run/host/db");
        assert_eq!(template.variables(), ["PASS"]);
    }

    #[test]
    fn a_missing_variable_is_named_and_a_secret_is_never_shown() {
        let template = Template::parse("${env:NOT_THERE}").unwrap();
        let error = template.resolve_with(&|_| None, &|_| Ok(String::new())).unwrap_err();
        assert_eq!(error.to_string(), "the environment variable NOT_THERE is not set");
        assert_eq!(format!("{:?}", Secret("pw".into())), "Secret(...)");
    }

    #[test]
    fn malformed_secrets_are_refused() {
        for wrong in ["${env:}", "${vault:x}", "${env:X", "${}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_literal_password_is_found_and_a_secret_one_is_not() {
        let literal = |text: &str| Template(text.into()).literal_password().map(|range| text[range].to_string());
        assert_eq!(literal("postgres://u:hunter2@host/db"), Some("hunter2".into()));
        assert_eq!(literal("postgres://${env:USER}:hunter2@host/db"), Some("hunter2".into()));
        for right in [
            "postgres://u:${env:P}@host/db",
            "postgres://u:${file:/run/p}@host/db",
            "postgres://${env:USER}@host:5432/db",
            "postgres://u@host:5432/db",
            "postgres://host:5432/db?x=a@b",
            "host=localhost",
        ] {
            assert_eq!(literal(right), None, "{right}");
        }
    }
}
