/// Error of a request to Odoo, with a remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OdooError {
    /// The client cannot be made.
    #[error("no connection to Odoo can be made: {0}")]
    ClientSetup(String),
    /// No connection.
    #[error("Odoo cannot be reached: {0}; check url, and whether Odoo runs")]
    Unreachable(String),
    /// It may have been done.
    #[error("Odoo gave no whole answer to {operation}: {cause}; it may have been done")]
    NoResponse {
        /// Requested operation.
        operation: String,
        /// Cause, without the URL.
        cause: String,
    },
    /// The message to submit cannot be read.
    #[error("what was to be handed to Odoo cannot be read: {cause}")]
    BodyUnreadable {
        /// What kind of error that was.
        kind: std::io::ErrorKind,
        /// Text of the I/O error.
        cause: String,
    },
    /// Something else answers at that address.
    #[error(
        "{operation} was answered with {response}, which is not Odoo's API; check url, and that the proxy passes /jsonrpc and /xmlrpc/2"
    )]
    NotOdoo {
        /// Requested operation.
        operation: String,
        /// Status and first part of the response.
        response: String,
    },
    /// There is no such database.
    #[error("Odoo has no database {0:?}; check database")]
    UnknownDatabase(String),
    /// The login is refused.
    #[error("Odoo refuses the login of {0:?}; check username and api_key, and that the key has not expired")]
    LoginRejected(String),
    /// The user lacks a right.
    #[error("Odoo denies {operation} to {user:?}: {text}")]
    AccessDenied {
        /// Requested operation.
        operation: String,
        /// Login of the user.
        user: String,
        /// Text of Odoo's error.
        text: String,
    },
    /// A conflict with another transaction; may be retried.
    #[error("Odoo is busy: {0}")]
    Busy(String),
    /// There is no such record.
    #[error("Odoo has no such record for {operation}: {text}")]
    NotFound {
        /// Requested operation.
        operation: String,
        /// Text of Odoo's error.
        text: String,
    },
    /// It was refused, or broke.
    #[error("Odoo refused {operation}: {exception}: {text}")]
    Rejected {
        /// Requested operation.
        operation: String,
        /// Name of the exception.
        exception: String,
        /// Text of Odoo's error.
        text: String,
    },
}

impl OdooError {
    /// Returns whether the request itself is the cause, not the time, the network, the login or its access rights.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// Converts an exception of Odoo; `name` is its qualified name, as far as known.
    pub(super) fn from_exception(what: &str, user: &str, database: &str, name: &str, text: &str) -> Self {
        let (operation, text) = (what.to_owned(), to_short_line(text));
        let any = |words: &[&str]| words.iter().any(|word| name.contains(word) || text.contains(word));
        if text.contains("FATAL:") && text.contains("does not exist") {
            return Self::UnknownDatabase(database.to_owned());
        }
        if any(&[
            "SerializationFailure",
            "could not serialize",
            "LockNotAvailable",
            "DeadlockDetected",
            "PoolError",
            "OperationalError",
            "InterfaceError",
        ]) {
            return Self::Busy(text);
        }
        if name.contains("AccessDenied") {
            return Self::LoginRejected(user.to_owned());
        }
        if name.contains("AccessError") {
            return Self::AccessDenied { operation, user: user.to_owned(), text };
        }
        if name.contains("MissingError") {
            return Self::NotFound { operation, text };
        }
        Self::Rejected { operation, exception: name.to_owned(), text }
    }
}

/// Reduces a text to one line of limited length.
pub(super) fn to_short_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MAX_ERROR_TEXT {
        return line;
    }
    // Odoo puts the cause at the beginning, Python at the end.
    let characters: Vec<char> = line.chars().collect();
    let (beginning, end) =
        (&characters[..MAX_ERROR_TEXT / 2], &characters[characters.len() - MAX_ERROR_TEXT / 2..]);
    beginning.iter().chain(['…'].iter()).chain(end).collect()
}

/// Maximum characters of Odoo's error text.
const MAX_ERROR_TEXT: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_exceptions() {
        let fault = |name: &str, text: &str| OdooError::from_exception("x", "bot", "prod", name, text);
        assert!(matches!(fault("odoo.exceptions.AccessError", "no"), OdooError::AccessDenied { .. }));
        assert!(matches!(
            fault("odoo.exceptions.AccessDenied", "Access Denied"),
            OdooError::LoginRejected(_)
        ));
        assert!(matches!(fault("odoo.exceptions.MissingError", "gone"), OdooError::NotFound { .. }));
        assert!(matches!(
            fault("psycopg2.errors.SerializationFailure", "could not serialize access"),
            OdooError::Busy(_)
        ));
        let absent = "connection failed: FATAL:  database \"prod\" does not exist";
        assert_eq!(fault("psycopg2.OperationalError", absent), OdooError::UnknownDatabase("prod".into()));
        let refused = fault("builtins.ValueError", "a\n  b");
        assert!(refused.is_permanent());
        assert_eq!(refused.to_string(), "Odoo refused x: builtins.ValueError: a b");
    }
}
