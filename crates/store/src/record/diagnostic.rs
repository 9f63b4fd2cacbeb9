//! Stored form of a diagnostic.

use mailtrail_trail::Diagnostic;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DiagnosticV1 {
    name: String,
    code: Option<u16>,
    enhanced_status: Option<String>,
    text: Option<String>,
    host: Option<String>,
    url: Option<String>,
}

impl From<&Diagnostic> for DiagnosticV1 {
    fn from(words: &Diagnostic) -> Self {
        let Diagnostic { name, code, enhanced_status, text, host, url } = words.clone();
        Self { name, code, enhanced_status, text, host, url }
    }
}

impl From<DiagnosticV1> for Diagnostic {
    fn from(stored: DiagnosticV1) -> Self {
        let DiagnosticV1 { name, code, enhanced_status, text, host, url } = stored;
        Self { name, code, enhanced_status, text, host, url }
    }
}
