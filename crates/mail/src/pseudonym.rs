use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Purpose of a pseudonym, the replacement of an erased address. It is undeliverable, because `invalid` is reserved
/// (RFC 2606 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudonym {
    /// For trails, events and the log; the key is discarded, so that addresses cannot be tested against it.
    Trail,
    /// For the suppression list; the key is kept, so that the address is recognized when mail is submitted to it.
    Suppression,
}

impl Pseudonym {
    /// That of an address (in lower case) under a key.
    pub fn derive(self, folded: &str, key: &[u8; 16]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(folded).finalize());
        let mac = mac.map(|mac| mac.into_bytes().to_vec()).unwrap_or_default();
        let hex: String = mac.iter().take(self.digest_bytes()).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{hex}{PSEUDONYM_DOMAIN}", self.prefix())
    }

    /// Whether an address is such a one.
    pub fn is_pseudonym(self, address: &str) -> bool {
        let hex = address.strip_prefix(self.prefix()).and_then(|rest| rest.strip_suffix(PSEUDONYM_DOMAIN));
        hex.is_some_and(|hex| {
            hex.len() == 2 * self.digest_bytes() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Trail => "erased-",
            Self::Suppression => "suppressed-",
        }
    }

    /// Length of the digest: long enough on the suppression list to rule out collisions.
    const fn digest_bytes(self) -> usize {
        match self {
            Self::Trail => 8,
            Self::Suppression => 16,
        }
    }
}

const PSEUDONYM_DOMAIN: &str = "@invalid";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Mailbox;

    #[test]
    fn pseudonym_is_an_opaque_address() {
        for kind in [Pseudonym::Trail, Pseudonym::Suppression] {
            let of = |address, key: u8| kind.derive(address, &[key; 16]);
            let name = of("ada@example.net", 1);
            assert!(
                kind.is_pseudonym(&name) && name.parse::<Mailbox>().is_ok() && !name.contains("ada"),
                "{name}"
            );
            assert_eq!(of("ada@example.net", 1), name);
            assert!(of("ada@example.net", 2) != name && of("bob@example.net", 1) != name);
        }
        assert!(!Pseudonym::Trail.is_pseudonym(&Pseudonym::Suppression.derive("ada@example.net", &[1; 16])));
        assert!(!Pseudonym::Trail.is_pseudonym("erased-ada@invalid"));
    }
}
