//! Formats errors of HTTP requests without the request URL.

use std::error::Error;

/// The cause itself, and not what wraps it.
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Of a request that was not answered.
pub fn request_error_text(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    root_cause(&error.without_url()).to_string()
}
