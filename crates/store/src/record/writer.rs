//! Writers of stored forms: a plain one, and one that replaces strings.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Writer of stored forms.
pub(crate) trait RecordWriter {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8>;
}

pub(crate) struct PlainWriter;

impl RecordWriter for PlainWriter {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        postcard::to_stdvec(&stored).expect("plain data in memory always encodes")
    }
}

pub(crate) struct RewritingWriter<'a> {
    pub replacement: &'a mut dyn FnMut(&str) -> Option<String>,
    pub changed: bool,
}

impl RewritingWriter<'_> {
    fn rewrite_strings(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(other) = (self.replacement)(text) {
                    *text = other;
                    self.changed = true;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rewrite_strings(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.rewrite_strings(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl RecordWriter for RewritingWriter<'_> {
    /// Converts through a tree of values, which reaches the strings of every form, including future ones.
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        let mut value = serde_json::to_value(&stored).unwrap_or_default();
        self.rewrite_strings(&mut value);
        // A tree that cannot be converted back is no record; decoding detects that.
        let changed = serde_json::from_value::<T>(value).ok();
        changed.and_then(|changed| postcard::to_stdvec(&changed).ok()).unwrap_or_default()
    }
}
