//! Secrets that must never be printed.

use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A password, key or token. It cannot be printed; [`Secret::expose`] makes each use visible. Its memory is overwritten
/// when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether the bytes equal the secret, in constant time, also for different lengths. An empty secret equals
    /// nothing.
    pub fn ct_eq(&self, named: &[u8]) -> bool {
        let digests = [self.0.as_bytes(), named].map(Sha256::digest);
        !self.0.is_empty() && bool::from(digests[0].ct_eq(&digests[1]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("******")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_redacted_in_output() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "****** ****** Some(******)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn compares_the_whole_secret() {
        let secret = Secret::new("hunter2");
        assert!(secret.ct_eq(b"hunter2"));
        for other in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!secret.ct_eq(other.as_bytes()), "{other}");
        }
        assert!(!Secret::new("").ct_eq(b""));
    }
}
