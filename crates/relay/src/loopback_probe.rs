//! Challenge that only this process can issue and answer: whether a request to one of our addresses arrives
//! here. Any other request reveals nothing, not even the existence of the challenge.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Issuer and verifier of challenges. Clones share a secret key that ends with the process.
#[derive(Clone)]
pub struct LoopbackProbe(Arc<[u8; 32]>);

impl LoopbackProbe {
    /// Header field that carries a challenge.
    pub const HEADER_NAME: &str = "x-mailtrail-probe";

    /// Returns a challenge and its expected answer at a path.
    pub fn challenge(&self, path: &str) -> (String, String) {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let nonce = to_hex(&nonce);
        let question = format!("{nonce}.{}", self.compute_mac("question", &nonce));
        (question, self.compute_mac("answer", &format!("{nonce} {path}")))
    }

    /// Returns the answer to a challenge issued here; `None` for any other.
    pub fn respond(&self, question: &str, path: &str) -> Option<String> {
        let (nonce, mark) = question.split_once('.')?;
        let ours: bool = self.compute_mac("question", nonce).as_bytes().ct_eq(mark.as_bytes()).into();
        ours.then(|| self.compute_mac("answer", &format!("{nonce} {path}")))
    }

    fn compute_mac(&self, what: &str, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        mac.update(what.as_bytes());
        mac.update(b" ");
        mac.update(text.as_bytes());
        to_hex(&mac.finalize().into_bytes())
    }
}

impl Default for LoopbackProbe {
    /// Creates a probe with its own random key.
    fn default() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self(Arc::new(key))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_only_own_challenges_per_path() {
        let (ours, other) = (LoopbackProbe::default(), LoopbackProbe::default());
        let (question, answer) = ours.challenge("/webhooks/up");
        assert_eq!(ours.clone().respond(&question, "/webhooks/up"), Some(answer.clone()));
        assert_ne!(ours.respond(&question, "/webhooks/down"), Some(answer.clone()));
        assert_eq!(other.respond(&question, "/webhooks/up"), None);
        let (nonce, mark) = question.split_once('.').unwrap();
        for foreign in ["", ".", nonce, &format!("{nonce}."), &format!("x{nonce}.{mark}"), &answer] {
            assert_eq!(ours.respond(foreign, "/webhooks/up"), None, "{foreign}");
        }
        // An answer is no challenge: a client that has seen one cannot reuse it as a challenge.
        assert_eq!(ours.respond(&format!("{nonce} /webhooks/up.{answer}"), "/webhooks/up"), None);
        assert_ne!(ours.challenge("/webhooks/up").0, question);
    }
}
