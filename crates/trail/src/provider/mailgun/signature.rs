use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Secret;
use sha2::Sha256;

/// The signature of a webhook: lower-case hex of HMAC-SHA256 over timestamp and token, with nothing between
/// them.
pub fn sign_webhook(key: &Secret, timestamp: &str, token: &str) -> String {
    let digest = new_mac(key, timestamp, token).finalize().into_bytes();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether one of `signatures` was made with one of `keys`, in constant time. An empty key, timestamp, token or
/// signature never verifies.
pub fn verify_signature(keys: &[Secret], timestamp: &str, token: &str, signatures: &[&str]) -> bool {
    if timestamp.is_empty() || token.is_empty() {
        return false;
    }
    let usable = keys.iter().filter(|key| !key.expose().is_empty());
    usable.map(|key| new_mac(key, timestamp, token)).any(|mac| {
        let mut digests = signatures.iter().filter_map(|hex| decode_digest(hex));
        digests.any(|digest| mac.clone().verify_slice(&digest).is_ok())
    })
}

fn new_mac(key: &Secret, timestamp: &str, token: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key.expose().as_bytes())
        .expect("HMAC takes a key of any length (RFC 2104)")
        .chain_update(timestamp)
        .chain_update(token)
}

/// Decodes 64 hexadecimal digits.
fn decode_digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_any_key_and_signature() {
        let [old, new, other] = ["old", "new", "other"].map(Secret::new);
        let keys = [old.clone(), new.clone()];
        for key in [&old, &new] {
            let made = sign_webhook(key, "1789387200", "token");
            assert!(verify_signature(&keys, "1789387200", "token", &["junk", &made]));
            assert!(!verify_signature(&keys, "1789387201", "token", &[&made]));
            assert!(!verify_signature(&keys, "1789387200", "token", &[&made[..62]]));
            assert!(!verify_signature(&keys, "1789387200", "token", &[&format!("{made}00")]));
        }
        assert!(!verify_signature(
            &keys,
            "1789387200",
            "token",
            &[&sign_webhook(&other, "1789387200", "token")]
        ));
    }

    #[test]
    fn rejects_empty_inputs() {
        let key = Secret::new("key");
        let empty = Secret::new("");
        assert!(!verify_signature(
            std::slice::from_ref(&empty),
            "1",
            "a",
            &[&sign_webhook(&empty, "1", "a")]
        ));
        assert!(!verify_signature(std::slice::from_ref(&key), "", "1a", &[&sign_webhook(&key, "1", "a")]));
        assert!(!verify_signature(std::slice::from_ref(&key), "1a", "", &[&sign_webhook(&key, "1", "a")]));
        assert!(!verify_signature(std::slice::from_ref(&key), "1", "a", &["", "é"]));
        assert!(!verify_signature(&[], "1", "a", &[&sign_webhook(&key, "1", "a")]));
    }
}
