//! The three ways to give a secret: literal, `${NAME}` and file. No message contains the value of a secret.

use crate::config::document::{SpannedValue, Value};
use crate::config::section::Section;
use mailtrail_mail::Secret;
use std::path::Path;

impl Section<'_> {
    /// Reads `key` or `key_file`.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        self.secrets(key, 1).pop()
    }

    /// Reads `key` or `key_file`. The value may be a literal in the file, as a password hash is.
    pub fn password_hash(&mut self, key: &str) -> Option<Secret> {
        self.value_or_file(key, 1, Self::secret_or_env_variable).pop()
    }

    /// Reads `key` or `key_file`, each a text or (if `most` is above one) a list of texts.
    pub fn secrets(&mut self, key: &str, most: usize) -> Vec<Secret> {
        self.value_or_file(key, most, Self::inline_secret)
    }

    fn value_or_file(
        &mut self,
        key: &str,
        most: usize,
        in_place: impl Fn(&Self, &str, &str) -> Option<Secret>,
    ) -> Vec<Secret> {
        let file_key = format!("{key}_file");
        match (self.take(key), self.take(&file_key)) {
            (None, None) => Vec::new(),
            (Some(_), Some(_)) => {
                self.add_error(key, format!("stands beside {file_key}; give one of the two"));
                Vec::new()
            }
            (Some(value), None) => self.resolve_texts(key, value, most, in_place),
            (None, Some(value)) => self.resolve_texts(&file_key, value, most, Self::secret_from_file),
        }
    }

    fn resolve_texts(
        &self,
        key: &str,
        value: Value,
        most: usize,
        one: impl Fn(&Self, &str, &str) -> Option<Secret>,
    ) -> Vec<Secret> {
        let Some(texts) = into_texts(value, most) else {
            let list = if most > 1 { format!(" or a list of up to {most}") } else { String::new() };
            self.add_error(key, format!("is not a text{list}"));
            return Vec::new();
        };
        texts.iter().filter_map(|text| one(self, key, text)).collect()
    }

    fn inline_secret(&self, key: &str, text: &str) -> Option<Secret> {
        if env_variable_name(text).is_none() {
            let message = format!("stands in the file itself; {key}_file or \"${{ENV_NAME}}\" keeps it out");
            self.add_warning(key, message);
        }
        self.secret_or_env_variable(key, text)
    }

    fn secret_or_env_variable(&self, key: &str, text: &str) -> Option<Secret> {
        let Some(name) = env_variable_name(text) else { return self.reject_empty(key, text) };
        let value = self.context.environment.get(name);
        if value.is_none() {
            self.add_error(key, format!("the environment variable {name} is not set"));
        }
        self.reject_empty(key, value?)
    }

    fn secret_from_file(&self, key: &str, name: &str) -> Option<Secret> {
        let path = self.context.resolve_existing(Path::new(name));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                self.context.record_secret_file(path);
                self.reject_empty(key, strip_newline(&text))
            }
            Err(error) => {
                self.add_error(key, format!("{name:?} cannot be read ({}: {error})", path.display()));
                None
            }
        }
    }

    fn reject_empty(&self, key: &str, text: &str) -> Option<Secret> {
        if text.is_empty() {
            self.add_error(key, "is empty");
            return None;
        }
        Some(Secret::new(text))
    }
}

fn into_texts(value: Value, most: usize) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(nodes) if most > 1 && (1..=most).contains(&nodes.len()) => {
            nodes.into_iter().map(|SpannedValue { value, .. }| value.as_text().map(str::to_owned)).collect()
        }
        _ => None,
    }
}

fn strip_newline(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').unwrap_or(line)
}

/// Returns the name in `${NAME}`.
fn env_variable_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    named.then_some(name)
}
