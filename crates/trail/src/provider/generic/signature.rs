use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::{Secret, Timestamp};
use sha2::Sha256;
use std::time::Duration;

/// The three header fields of a signed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// `webhook-id`: the same with each repetition.
    pub id: &'a str,
    /// `webhook-timestamp`: seconds since the epoch.
    pub timestamp: &'a str,
    /// `webhook-signature`: signatures with blanks between them.
    pub signatures: &'a str,
}

/// Why a request is not believed. For the operator; the peer reads a status code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field is missing or empty.
    #[error("webhook-id, webhook-timestamp or webhook-signature is missing")]
    Unsigned,
    /// There is no secret to check with.
    #[error("no secret is configured for this source")]
    NoKey,
    /// No configured secret made a signature.
    #[error("the signature does not match: does the reporter have the secret of this [[source]]?")]
    BadSignature,
    /// The signature is too old.
    #[error("signed at {signed_at}, more than {} h ago", MAX_AGE.as_secs() / 3600)]
    Stale {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature is from the future.
    #[error("signed at {signed_at}, more than {} min ahead: are both clocks right?", MAX_AHEAD.as_secs() / 60)]
    Ahead {
        /// The claimed time.
        signed_at: Timestamp,
    },
}

impl Signed<'_> {
    /// When the request was signed, if one of `secrets` signed it and that is not too long ago.
    pub fn verify(&self, secrets: &[Secret], body: &[u8], now: Timestamp) -> Result<Timestamp, Refused> {
        let Self { id, timestamp, signatures } = self;
        if [id, timestamp, signatures].iter().any(|text| text.is_empty()) {
            return Err(Refused::Unsigned);
        }
        let macs: Vec<_> = secrets.iter().filter_map(|secret| mac(secret, id, timestamp, body)).collect();
        if macs.is_empty() {
            return Err(Refused::NoKey);
        }
        let given = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let mut digests =
            given.take(SIGNATURES).filter_map(|signature| BASE64_STANDARD.decode(signature).ok());
        if !digests.any(|digest| macs.iter().any(|mac| mac.clone().verify_slice(&digest).is_ok())) {
            return Err(Refused::BadSignature);
        }
        let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = timestamp.parse().ok().filter(|_| digits).ok_or(Refused::Unsigned)?;
        let signed_at = Timestamp::from_secs(seconds);
        if now.duration_since(signed_at) > MAX_AGE {
            return Err(Refused::Stale { signed_at });
        }
        if signed_at.duration_since(now) > MAX_AHEAD {
            return Err(Refused::Ahead { signed_at });
        }
        Ok(signed_at)
    }
}

/// One signature, as `webhook-signature` holds it; `None` with a secret that can sign nothing.
pub fn sign(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
    let digest = mac(secret, id, timestamp, body)?.finalize().into_bytes();
    Some(format!("v1,{}", BASE64_STANDARD.encode(digest)))
}

/// A secret is the key itself or, behind `whsec_`, its base64.
fn mac(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let key = match secret.reveal().strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok()?,
        None => secret.reveal().as_bytes().to_vec(),
    };
    let mac = Hmac::<Sha256>::new_from_slice(&key).ok().filter(|_| !key.is_empty())?;
    Some(
        [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
            .into_iter()
            .fold(mac, |mac, part| mac.chain_update(part)),
    )
}

/// A signature may be this old: time for repetitions.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A signature may be this far ahead of our clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(10 * 60);

/// Signatures of one request that are looked at.
const SIGNATURES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_614_265_330);

    fn verify(secret: &str, signed: Signed<'_>, body: &[u8], now: Timestamp) -> Result<Timestamp, Refused> {
        signed.verify(&[Secret::new("other"), Secret::new(secret)], body, now)
    }

    /// The example of the Standard Webhooks' own libraries.
    #[test]
    fn the_standards_example_verifies() {
        let signed = Signed {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signatures: "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        };
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(verify(secret, signed, body, NOW), Ok(NOW));
        assert_eq!(verify(secret, signed, br#"{"test": 2432232315}"#, NOW), Err(Refused::BadSignature));
        assert_eq!(verify(&secret[6..], signed, body, NOW), Err(Refused::BadSignature));
    }

    #[test]
    fn every_part_is_covered_and_times_have_bounds() {
        let made = sign(&Secret::new("secret"), "id", "1614265330", b"body").unwrap();
        let signed = Signed { id: "id", timestamp: "1614265330", signatures: &made };
        let day = Duration::from_secs(86_400);
        assert_eq!(verify("secret", signed, b"body", NOW.saturating_add(day)), Ok(NOW));
        assert_eq!(
            verify("secret", signed, b"body", NOW.saturating_add(day * 2)),
            Err(Refused::Stale { signed_at: NOW })
        );
        assert_eq!(verify("secret", signed, b"body", NOW.saturating_sub(MAX_AHEAD)), Ok(NOW));
        assert_eq!(
            verify("secret", signed, b"body", NOW.saturating_sub(day)),
            Err(Refused::Ahead { signed_at: NOW })
        );
        for (changed, refused) in [
            (Signed { id: "di", ..signed }, Refused::BadSignature),
            (Signed { timestamp: "1614265331", ..signed }, Refused::BadSignature),
            (Signed { signatures: &made[3..], ..signed }, Refused::BadSignature),
            (Signed { signatures: "v1, v1,! v1,AAAA", ..signed }, Refused::BadSignature),
            (Signed { id: "", ..signed }, Refused::Unsigned),
            (Signed { signatures: "", ..signed }, Refused::Unsigned),
        ] {
            assert_eq!(verify("secret", changed, b"body", NOW), Err(refused), "{changed:?}");
        }
        let odd = sign(&Secret::new("secret"), "id", "+1614265330", b"").unwrap();
        let odd = Signed { id: "id", timestamp: "+1614265330", signatures: &odd };
        assert_eq!(verify("secret", odd, b"", NOW), Err(Refused::Unsigned));
    }

    #[test]
    fn without_a_usable_secret_nothing_verifies() {
        let signed = Signed { id: "id", timestamp: "1", signatures: "v1,AAAA" };
        for secrets in [&[][..], &[Secret::new("")], &[Secret::new("whsec_")], &[Secret::new("whsec_!")]] {
            assert_eq!(signed.verify(secrets, b"", NOW), Err(Refused::NoKey));
        }
    }
}
