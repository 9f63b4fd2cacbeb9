//! A question that only this process can put and answer: whether a request to an address of ours comes here. Whoever asks
//! anything else learns nothing, not even that there is such a question.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Whoever asks and answers. Clones share a key that nobody else has and that ends with the process.
#[derive(Clone)]
pub struct LoopbackProbe(Arc<[u8; 32]>);

impl LoopbackProbe {
    /// The header field that carries a question.
    pub const HEADER_NAME: &str = "x-mailtrail-probe";

    /// A question, and what it is answered at a path.
    pub fn challenge(&self, path: &str) -> (String, String) {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let nonce = to_hex(&nonce);
        let question = format!("{nonce}.{}", self.compute_mac("question", &nonce));
        (question, self.compute_mac("answer", &format!("{nonce} {path}")))
    }

    /// The answer to a question that was put here; `None` to any other.
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
    /// With a key of its own.
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
        // An answer is no question: whoever has seen one cannot go on asking with it.
        assert_eq!(ours.respond(&format!("{nonce} /webhooks/up.{answer}"), "/webhooks/up"), None);
        assert_ne!(ours.challenge("/webhooks/up").0, question);
    }
}
