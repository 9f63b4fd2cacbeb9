/// Why Odoo did not do what it was asked, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The client cannot be made.
    #[error("no connection to Odoo can be made: {0}")]
    Setup(String),
    /// Nothing was sent.
    #[error("Odoo cannot be reached: {0}; check url, and whether Odoo runs")]
    Unreachable(String),
    /// It may have been done.
    #[error("Odoo gave no whole answer to {what}: {cause}; it may have been done")]
    Unanswered {
        /// What was asked for.
        what: String,
        /// What came instead.
        cause: String,
    },
    /// What was to be handed over cannot be read.
    #[error("what was to be handed to Odoo cannot be read: {cause}")]
    Unread {
        /// What kind of error that was.
        kind: std::io::ErrorKind,
        /// The error.
        cause: String,
    },
    /// Something else answers at that address.
    #[error(
        "{what} was answered with {answer}, which is not Odoo's API; check url, and that the proxy passes /jsonrpc and /xmlrpc/2"
    )]
    Stranger {
        /// What was asked for.
        what: String,
        /// The status and the beginning of what came.
        answer: String,
    },
    /// There is no such database.
    #[error("Odoo has no database {0:?}; check database")]
    Database(String),
    /// The login is refused.
    #[error("Odoo refuses the login of {0:?}; check username and api_key, and that the key has not expired")]
    Login(String),
    /// The user lacks a right.
    #[error("Odoo denies {what} to {user:?}: {text}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The login.
        user: String,
        /// Odoo's words.
        text: String,
    },
    /// Another time it may be done: it was in somebody's way.
    #[error("Odoo is busy: {0}")]
    Busy(String),
    /// There is no such record.
    #[error("Odoo has no such record for {what}: {text}")]
    Missing {
        /// What was asked for.
        what: String,
        /// Odoo's words.
        text: String,
    },
    /// It was refused, or broke.
    #[error("Odoo refused {what}: {name}: {text}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The exception.
        name: String,
        /// Odoo's words.
        text: String,
    },
}

impl Fault {
    /// Whether what was asked for is itself the reason, and not the time, the network, the login or its rights.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// What an exception of Odoo's means; `name` is the exception with its module, as far as that is known.
    pub(super) fn of_exception(what: &str, user: &str, database: &str, name: &str, text: &str) -> Self {
        let (what, text) = (what.to_owned(), shorten(text));
        let any = |words: &[&str]| words.iter().any(|word| name.contains(word) || text.contains(word));
        if text.contains("FATAL:") && text.contains("does not exist") {
            return Self::Database(database.to_owned());
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
            return Self::Login(user.to_owned());
        }
        if name.contains("AccessError") {
            return Self::Denied { what, user: user.to_owned(), text };
        }
        if name.contains("MissingError") {
            return Self::Missing { what, text };
        }
        Self::Refused { what, name: name.to_owned(), text }
    }
}

/// Words in one line of a bearable length.
pub(super) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= TEXT {
        return line;
    }
    // Odoo says at the beginning what went wrong, Python at the end.
    let characters: Vec<char> = line.chars().collect();
    let (beginning, end) = (&characters[..TEXT / 2], &characters[characters.len() - TEXT / 2..]);
    beginning.iter().chain(['…'].iter()).chain(end).collect()
}

/// Characters of Odoo's words that are kept.
const TEXT: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_say_what_may_be_done() {
        let fault = |name: &str, text: &str| Fault::of_exception("x", "bot", "prod", name, text);
        assert!(matches!(fault("odoo.exceptions.AccessError", "no"), Fault::Denied { .. }));
        assert!(matches!(fault("odoo.exceptions.AccessDenied", "Access Denied"), Fault::Login(_)));
        assert!(matches!(fault("odoo.exceptions.MissingError", "gone"), Fault::Missing { .. }));
        assert!(matches!(
            fault("psycopg2.errors.SerializationFailure", "could not serialize access"),
            Fault::Busy(_)
        ));
        let absent = "connection failed: FATAL:  database \"prod\" does not exist";
        assert_eq!(fault("psycopg2.OperationalError", absent), Fault::Database("prod".into()));
        let refused = fault("builtins.ValueError", "a\n  b");
        assert!(refused.is_final());
        assert_eq!(refused.to_string(), "Odoo refused x: builtins.ValueError: a b");
    }
}
