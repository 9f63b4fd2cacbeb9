//! Why a request came to nothing, in words that name no address.

use std::error::Error;

/// The cause itself, and not what wraps it.
pub fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Of a request that was not answered.
pub fn of_request(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    innermost(&error.without_url()).to_string()
}
