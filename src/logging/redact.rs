use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::fold_address;
use regex::Regex;
use sha2::Sha256;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, OnceLock};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::MakeWriter;

/// Redaction of mail addresses in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRedaction {
    /// No redaction.
    Full,
    /// `~1f9a03c47b21@example.net`: the local part as a keyed hash. The key is random for each process, so the hash is
    /// the same until the program restarts.
    Domain,
    /// `~1f9a03c47b21`: the whole address as a keyed hash.
    Hidden,
}

/// Formats log lines and redacts their addresses.
#[derive(Clone, Debug)]
pub struct RedactingWriter(pub NonBlocking);

impl RedactingWriter {
    /// Sets the redaction of subsequent lines.
    pub fn set_mode(addresses: AddressRedaction) {
        REDACTION_MODE.store(addresses as u8, Ordering::Relaxed);
    }
}

impl<'a> MakeWriter<'a> for RedactingWriter {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(self.0.clone())
    }
}

/// Writer of one line, which arrives in one piece.
#[derive(Debug)]
pub struct LineWriter(NonBlocking);

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        self.0.write_all(redact(&line).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Redacts the addresses in a text with the current mode.
pub fn redact(text: &str) -> Cow<'_, str> {
    match REDACTION_MODE.load(Ordering::Relaxed) {
        wanted if wanted == AddressRedaction::Domain as u8 => {
            redact_with(text, AddressRedaction::Domain, pseudonym_key())
        }
        wanted if wanted == AddressRedaction::Hidden as u8 => {
            redact_with(text, AddressRedaction::Hidden, pseudonym_key())
        }
        _ => Cow::Borrowed(text),
    }
}

/// Redacts the addresses in a line. A Message-ID and a login in a URL look like addresses and are redacted, too.
fn redact_with<'a>(line: &'a str, addresses: AddressRedaction, key: &[u8; 32]) -> Cow<'a, str> {
    ADDRESS_PATTERN.replace_all(line, |found: &regex::Captures<'_>| {
        let (Some(local), Some(domain)) = (found.name("local"), found.name("domain")) else {
            return found[0].to_owned();
        };
        // `to=ada@example.net` is a field; `bounces+ada=example.net@…` is not.
        let (field, local) = FIELD_PREFIX
            .find(local.as_str())
            .map_or(("", local.as_str()), |field| local.as_str().split_at(field.end()));
        let code = pseudonym(&fold_address(&format!("{local}@{}", domain.as_str())), key);
        match addresses {
            AddressRedaction::Full => found[0].to_owned(),
            AddressRedaction::Domain => format!("{field}~{code}@{}", domain.as_str()),
            AddressRedaction::Hidden => format!("{field}~{code}"),
        }
    })
}

fn pseudonym(address: &str, key: &[u8; 32]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(address).finalize());
    let mac = mac.map(|mac| mac.into_bytes().to_vec()).unwrap_or_default();
    mac.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn pseudonym_key() -> &'static [u8; 32] {
    static PSEUDONYM_KEY: OnceLock<[u8; 32]> = OnceLock::new();
    PSEUDONYM_KEY.get_or_init(|| {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        key
    })
}

/// The current [`AddressRedaction`] as a number.
static REDACTION_MODE: AtomicU8 = AtomicU8::new(AddressRedaction::Full as u8);

/// Matches an address, also quoted or with `%40` for the `@`; colour codes and JSON escapes in front are not part of
/// it.
static ADDRESS_PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?x) \x1b\[[0-9;]*m | \\(?:u[0-9A-Fa-f]{4}|[^u@])
        | (?<local> [A-Za-z0-9\x{80}-\x{10FFFF}.!\#$%'*+=^_`{|}~-]+
                  | "[^"\\@\x00-\x20]+(?:\x20[^"\\@\x00-\x20]+)*" ) (?:@|%40)
          (?<domain> [A-Za-z0-9\x{80}-\x{10FFFF}](?:[A-Za-z0-9\x{80}-\x{10FFFF}.-]*[A-Za-z0-9\x{80}-\x{10FFFF}])?
                  | \[[0-9A-Za-z.:]+\] )"#,
    )
    .expect("it is written here")
});

static FIELD_PREFIX: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[a-z_]+=").expect("it is written here"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_addresses_consistently() {
        let key = &[7; 32];
        let code = |address: &str| format!("~{}", pseudonym(address, key));
        let ada = code("ada@example.net");
        for (line, domain, hidden) in [
            ("INFO ready address=127.0.0.1:25", None, None),
            (
                "from=ADA@Example.net to=<ada@example.net>",
                Some("from=A@Example.net to=<A@example.net>"),
                Some("from=A to=<A>"),
            ),
            (
                r#"{"to":"ada@example.net","text":"x\nada@example.net."}"#,
                Some(r#"{"to":"A@example.net","text":"x\nA@example.net."}"#),
                Some(r#"{"to":"A","text":"x\nA."}"#),
            ),
            (
                "\x1b[3mto\x1b[0m\x1b[2m=\x1b[0mada@example.net\x1b[0m",
                Some("\x1b[3mto\x1b[0m\x1b[2m=\x1b[0mA@example.net\x1b[0m"),
                Some("\x1b[3mto\x1b[0m\x1b[2m=\x1b[0mA\x1b[0m"),
            ),
            (
                r#"reply="550 \"ada@example.net\" is \u00e4""#,
                Some(r#"reply="550 \"A@example.net\" is \u00e4""#),
                Some(r#"reply="550 \"A\" is \u00e4""#),
            ),
            (
                "https://x.test/?e=ada%40example.net",
                Some("https://x.test/?e=A@example.net"),
                Some("https://x.test/?e=A"),
            ),
        ] {
            let expected = |text: Option<&str>| text.map_or(line.to_owned(), |text| text.replace('A', &ada));
            // The redacted parts contain no other capital A.
            assert_eq!(redact_with(line, AddressRedaction::Domain, key), expected(domain), "{line}");
            assert_eq!(redact_with(line, AddressRedaction::Hidden, key), expected(hidden), "{line}");
            assert_eq!(redact_with(line, AddressRedaction::Full, key), line);
        }
        let path = redact_with("from=bounces+ada=example.net@mg.test", AddressRedaction::Domain, key);
        assert_eq!(path, format!("from={}@mg.test", code("bounces+ada=example.net@mg.test")));
        let quoted = redact_with(
            r#"to="odd name"@example.net, jürgen@bücher.example, a@[127.0.0.1]"#,
            AddressRedaction::Hidden,
            key,
        );
        assert!(!quoted.contains("odd") && !quoted.contains("jürgen") && !quoted.contains("127"), "{quoted}");
        assert_ne!(code("ada@example.net"), format!("~{}", super::pseudonym("ada@example.net", &[8; 32])));
    }
}
