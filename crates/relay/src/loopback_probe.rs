//! A question that only this process can put and answer: whether a request to an address of ours comes here. Whoever asks
//! anything else learns nothing, not even that there is such a question.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Whoever asks and answers. Clones share a key that nobody else has and that ends with the process.
#[derive(Clone)]
pub struct Probe(Arc<[u8; 32]>);

impl Probe {
    /// The header field that carries a question.
    pub const HEADER: &str = "x-mailtrail-probe";

    /// A question, and what it is answered at a path.
    pub fn ask(&self, path: &str) -> (String, String) {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let nonce = hex(&nonce);
        let question = format!("{nonce}.{}", self.mark("question", &nonce));
        (question, self.mark("answer", &format!("{nonce} {path}")))
    }

    /// The answer to a question that was put here; `None` to any other.
    pub fn answer(&self, question: &str, path: &str) -> Option<String> {
        let (nonce, mark) = question.split_once('.')?;
        let ours: bool = self.mark("question", nonce).as_bytes().ct_eq(mark.as_bytes()).into();
        ours.then(|| self.mark("answer", &format!("{nonce} {path}")))
    }

    fn mark(&self, what: &str, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        mac.update(what.as_bytes());
        mac.update(b" ");
        mac.update(text.as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

impl Default for Probe {
    /// With a key of its own.
    fn default() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self(Arc::new(key))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_questions_are_answered_and_each_path_has_its_answer() {
        let (ours, other) = (Probe::default(), Probe::default());
        let (question, answer) = ours.ask("/webhooks/up");
        assert_eq!(ours.clone().answer(&question, "/webhooks/up"), Some(answer.clone()));
        assert_ne!(ours.answer(&question, "/webhooks/down"), Some(answer.clone()));
        assert_eq!(other.answer(&question, "/webhooks/up"), None);
        let (nonce, mark) = question.split_once('.').unwrap();
        for foreign in ["", ".", nonce, &format!("{nonce}."), &format!("x{nonce}.{mark}"), &answer] {
            assert_eq!(ours.answer(foreign, "/webhooks/up"), None, "{foreign}");
        }
        // An answer is no question: whoever has seen one cannot go on asking with it.
        assert_eq!(ours.answer(&format!("{nonce} /webhooks/up.{answer}"), "/webhooks/up"), None);
        assert_ne!(ours.ask("/webhooks/up").0, question);
    }
}
