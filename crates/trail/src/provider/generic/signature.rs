use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::{Secret, Timestamp};
use sha2::Sha256;
use std::time::Duration;

/// The three header fields of a signed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedRequest<'a> {
    /// Header `webhook-id`, equal for each repetition.
    pub id: &'a str,
    /// `webhook-timestamp`: seconds since the epoch.
    pub timestamp: &'a str,
    /// `webhook-signature`: signatures with blanks between them.
    pub signatures: &'a str,
}

/// Error of verifying a request. For the operator; the peer gets a status code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A field is missing or empty.
    #[error("webhook-id, webhook-timestamp or webhook-signature is missing")]
    Unsigned,
    /// There is no secret to check with.
    #[error("no secret is configured for this source")]
    NoSecret,
    /// No configured secret made a signature.
    #[error("the signature does not match: does the reporter have the secret of this [[source]]?")]
    BadSignature,
    /// The signature is too old.
    #[error("signed at {signed_at}, more than {} h ago", MAX_SIGNATURE_AGE.as_secs() / 3600)]
    Expired {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature is from the future.
    #[error("signed at {signed_at}, more than {} min ahead: are both clocks right?", MAX_CLOCK_SKEW.as_secs() / 60)]
    FromFuture {
        /// The claimed time.
        signed_at: Timestamp,
    },
}

impl SignedRequest<'_> {
    /// When the request was signed, if one of `secrets` signed it and that is not too long ago.
    pub fn verify(
        &self,
        secrets: &[Secret],
        body: &[u8],
        now: Timestamp,
    ) -> Result<Timestamp, SignatureError> {
        let Self { id, timestamp, signatures } = self;
        if [id, timestamp, signatures].iter().any(|text| text.is_empty()) {
            return Err(SignatureError::Unsigned);
        }
        let macs: Vec<_> = secrets.iter().filter_map(|secret| new_mac(secret, id, timestamp, body)).collect();
        if macs.is_empty() {
            return Err(SignatureError::NoSecret);
        }
        let given = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let mut digests =
            given.take(MAX_SIGNATURES).filter_map(|signature| BASE64_STANDARD.decode(signature).ok());
        if !digests.any(|digest| macs.iter().any(|mac| mac.clone().verify_slice(&digest).is_ok())) {
            return Err(SignatureError::BadSignature);
        }
        let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = timestamp.parse().ok().filter(|_| digits).ok_or(SignatureError::Unsigned)?;
        let signed_at = Timestamp::from_secs(seconds);
        if now.duration_since(signed_at) > MAX_SIGNATURE_AGE {
            return Err(SignatureError::Expired { signed_at });
        }
        if signed_at.duration_since(now) > MAX_CLOCK_SKEW {
            return Err(SignatureError::FromFuture { signed_at });
        }
        Ok(signed_at)
    }
}

/// One signature, as `webhook-signature` holds it; `None` with a secret that can sign nothing.
pub fn sign_request(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
    let digest = new_mac(secret, id, timestamp, body)?.finalize().into_bytes();
    Some(format!("v1,{}", BASE64_STANDARD.encode(digest)))
}

/// A secret is the key itself, or its base64 after `whsec_`.
fn new_mac(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let key = match secret.expose().strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok()?,
        None => secret.expose().as_bytes().to_vec(),
    };
    let mac = Hmac::<Sha256>::new_from_slice(&key).ok().filter(|_| !key.is_empty())?;
    Some(
        [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
            .into_iter()
            .fold(mac, |mac, part| mac.chain_update(part)),
    )
}

/// A signature may be this old: time for repetitions.
pub const MAX_SIGNATURE_AGE: Duration = Duration::from_secs(24 * 3600);

/// Maximum time by which a signature may be ahead of our clock.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// Maximum number of signatures of a request that are checked.
const MAX_SIGNATURES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_614_265_330);

    fn verify_with(
        secret: &str,
        signed: SignedRequest<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Timestamp, SignatureError> {
        signed.verify(&[Secret::new("other"), Secret::new(secret)], body, now)
    }

    /// The example of the Standard Webhooks' own libraries.
    #[test]
    fn verifies_the_specification_example() {
        let signed = SignedRequest {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signatures: "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        };
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(verify_with(secret, signed, body, NOW), Ok(NOW));
        assert_eq!(
            verify_with(secret, signed, br#"{"test": 2432232315}"#, NOW),
            Err(SignatureError::BadSignature)
        );
        assert_eq!(verify_with(&secret[6..], signed, body, NOW), Err(SignatureError::BadSignature));
    }

    #[test]
    fn covers_every_part_and_bounds_times() {
        let made = sign_request(&Secret::new("secret"), "id", "1614265330", b"body").unwrap();
        let signed = SignedRequest { id: "id", timestamp: "1614265330", signatures: &made };
        let day = Duration::from_secs(86_400);
        assert_eq!(verify_with("secret", signed, b"body", NOW.saturating_add(day)), Ok(NOW));
        assert_eq!(
            verify_with("secret", signed, b"body", NOW.saturating_add(day * 2)),
            Err(SignatureError::Expired { signed_at: NOW })
        );
        assert_eq!(verify_with("secret", signed, b"body", NOW.saturating_sub(MAX_CLOCK_SKEW)), Ok(NOW));
        assert_eq!(
            verify_with("secret", signed, b"body", NOW.saturating_sub(day)),
            Err(SignatureError::FromFuture { signed_at: NOW })
        );
        for (changed, refused) in [
            (SignedRequest { id: "di", ..signed }, SignatureError::BadSignature),
            (SignedRequest { timestamp: "1614265331", ..signed }, SignatureError::BadSignature),
            (SignedRequest { signatures: &made[3..], ..signed }, SignatureError::BadSignature),
            (SignedRequest { signatures: "v1, v1,! v1,AAAA", ..signed }, SignatureError::BadSignature),
            (SignedRequest { id: "", ..signed }, SignatureError::Unsigned),
            (SignedRequest { signatures: "", ..signed }, SignatureError::Unsigned),
        ] {
            assert_eq!(verify_with("secret", changed, b"body", NOW), Err(refused), "{changed:?}");
        }
        let odd = sign_request(&Secret::new("secret"), "id", "+1614265330", b"").unwrap();
        let odd = SignedRequest { id: "id", timestamp: "+1614265330", signatures: &odd };
        assert_eq!(verify_with("secret", odd, b"", NOW), Err(SignatureError::Unsigned));
    }

    #[test]
    fn rejects_everything_without_usable_secret() {
        let signed = SignedRequest { id: "id", timestamp: "1", signatures: "v1,AAAA" };
        for secrets in [&[][..], &[Secret::new("")], &[Secret::new("whsec_")], &[Secret::new("whsec_!")]] {
            assert_eq!(signed.verify(secrets, b"", NOW), Err(SignatureError::NoSecret));
        }
    }
}
