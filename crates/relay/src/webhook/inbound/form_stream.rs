//! Forms with a mail in them, read piece by piece: what is large goes to disk as it comes.

use crate::webhook::inbound::disposition::Disposition;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use mailtrail_store::{Message, Spill, Store};
use multer::{Constraints, Multipart, SizeLimit};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io;
use std::ops::Range;

/// A form whose large fields lie on disk.
pub struct Upload {
    fields: Vec<Field>,
    /// The raw mail, where it has one.
    raw: Option<(Vec<u8>, Option<Spill>)>,
    /// Where the large fields lie.
    side: Option<Spill>,
    /// Of all fields, however they were encoded.
    pub digest: [u8; 16],
}

/// A field that matters.
pub struct Field {
    /// Its name.
    pub name: String,
    /// What is said about it, if it is a file.
    pub file: Option<File>,
    value: Value,
}

/// What is said about a file.
#[derive(Clone, Default)]
pub struct File {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its type, as it was declared.
    pub content_type: String,
}

enum Value {
    Memory(Vec<u8>),
    Side(Range<u64>),
}

/// Why there is no form.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is larger than may be.
    #[error("the mail is larger than {0} bytes; see `size` in [inbound]")]
    TooLarge(u64),
    /// It is none.
    #[error("the body is no form: {0}")]
    NoForm(String),
    /// The disk refuses.
    #[error("the mail cannot be written to disk: {0}")]
    Disk(#[from] io::Error),
    /// The connection broke, or was not HTTP any more.
    #[error("the body broke off, or its framing is no HTTP: {0}")]
    Broken(String),
}

impl Upload {
    /// Reads a form, of either kind, whose fields that matter have at most `largest` bytes together.
    pub async fn read(body: Body, content_type: &str, store: &Store, largest: u64) -> Result<Self, Unread> {
        let mut gatherer = Gatherer::new(store.clone(), largest);
        match multer::parse_boundary(content_type) {
            Ok(boundary) => gatherer.parts(body.into_data_stream(), boundary).await?,
            Err(_) => gatherer.pairs(body.into_data_stream()).await?,
        }
        gatherer.finish()
    }

    /// The first field of that name, as text.
    pub fn first(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|field| field.name == name).and_then(Field::text)
    }

    /// The last field of that name, as text: what a mail's header brought along stands before.
    pub fn last(&self, name: &str) -> Option<String> {
        self.fields.iter().rev().find(|field| field.name == name).and_then(Field::text)
    }

    /// The whole of the last field of that name. It blocks.
    pub fn whole(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let field = self.fields.iter().rev().find(|field| field.name == name);
        field.map(|field| self.bytes(field)).transpose()
    }

    /// The files, in their order.
    pub fn files(&self) -> impl Iterator<Item = (&Field, &File)> {
        self.fields.iter().filter_map(|field| Some((field, field.file.as_ref()?)))
    }

    /// Files that the form announces and does not hold.
    pub fn missing_files(&self) -> u32 {
        let announced: Option<u64> =
            self.last("attachment-count").and_then(|count| count.trim().parse().ok());
        let numbered = self.files().filter(|(field, _)| is_attachment(&field.name));
        let held: HashSet<&str> = numbered.map(|(field, _)| field.name.as_str()).collect();
        let missing = announced.unwrap_or(0).saturating_sub(held.len() as u64);
        u32::try_from(missing).unwrap_or(u32::MAX)
    }

    /// The whole of a field. It blocks.
    pub fn bytes(&self, field: &Field) -> io::Result<Vec<u8>> {
        match (&field.value, &self.side) {
            (Value::Memory(bytes), _) => Ok(bytes.clone()),
            (Value::Side(part), Some(side)) => side.read(part.clone()),
            (Value::Side(_), None) => Ok(Vec::new()),
        }
    }

    /// Takes the raw mail out, if it has one.
    pub fn take_raw(&mut self) -> Option<Message> {
        self.raw.take().map(|(first, rest)| Message::new(Bytes::from(first), rest))
    }
}

impl Field {
    fn text(&self) -> Option<String> {
        match &self.value {
            Value::Memory(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Side(_) => None,
        }
    }
}

/// Where a field's bytes go.
enum Open {
    Nowhere,
    Memory(Field),
    Side(Field),
    Raw,
}

struct Gatherer {
    store: Store,
    largest: u64,
    taken: u64,
    fields: Vec<Field>,
    raw: Option<(Vec<u8>, Option<Spill>)>,
    side: Option<Spill>,
    /// What is to be written next, to the raw mail's file or to the other.
    pending: Vec<u8>,
    /// Bytes that go to the side, written or pending.
    side_end: u64,
    open: Open,
    digest: Sha256,
    count: usize,
}

impl Gatherer {
    fn new(store: Store, largest: u64) -> Self {
        Self {
            store,
            largest,
            taken: 0,
            fields: Vec::new(),
            raw: None,
            side: None,
            pending: Vec::new(),
            side_end: 0,
            open: Open::Nowhere,
            digest: Sha256::new(),
            count: 0,
        }
    }

    async fn parts(&mut self, body: BodyDataStream, boundary: String) -> Result<(), Unread> {
        let wire = self.on_the_wire();
        let limits = Constraints::new().size_limit(SizeLimit::new().whole_stream(wire));
        let mut parts = Multipart::with_constraints(body, boundary, limits);
        while let Some(mut part) = parts.next_field().await.map_err(|error| self.unread(&error))? {
            let Disposition { name, file_name } = Disposition::of(part.headers());
            let (name, is_file) = (name.unwrap_or_default(), file_name.is_some());
            let content_type = part.headers().get("content-type").and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or_default().to_owned();
            let file = File { name: file_name.filter(|name| !name.is_empty()), content_type };
            let file = Some(file).filter(|_| is_file || is_attachment(&name));
            self.begin(name, file)?;
            while let Some(piece) = part.chunk().await.map_err(|error| self.unread(&error))? {
                self.more(&piece).await?;
            }
            self.end().await?;
        }
        Ok(())
    }

    fn unread(&self, error: &multer::Error) -> Unread {
        match error {
            multer::Error::StreamSizeExceeded { .. } => Unread::TooLarge(self.largest),
            multer::Error::StreamReadFailed(error) => Unread::Broken(error.to_string()),
            error => Unread::NoForm(error.to_string()),
        }
    }

    async fn pairs(&mut self, mut body: BodyDataStream) -> Result<(), Unread> {
        let (mut decoder, mut seen) = (Decoder::default(), 0);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Unread::Broken(error.to_string()))?;
            seen += piece.len() as u64;
            if seen > self.on_the_wire() {
                return Err(Unread::TooLarge(self.largest));
            }
            for token in decoder.feed(&piece) {
                self.token(token).await?;
            }
        }
        for token in decoder.finish() {
            self.token(token).await?;
        }
        Ok(())
    }

    async fn token(&mut self, token: Token) -> Result<(), Unread> {
        match token {
            Token::Name(name) => {
                let file = is_attachment(&name).then(File::default);
                self.begin(name, file)
            }
            Token::Bytes(bytes) => self.more(&bytes).await,
            Token::End => self.end().await,
            Token::Endless => Err(Unread::NoForm("a field's name does not end".to_owned())),
        }
    }

    /// Encoded, each byte may take three; and there are fields that do not matter.
    fn on_the_wire(&self) -> u64 {
        self.largest.saturating_mul(3).saturating_add(ASIDE)
    }

    fn begin(&mut self, name: String, file: Option<File>) -> Result<(), Unread> {
        self.count += 1;
        if self.count > MOST {
            return Err(Unread::NoForm(format!("it has more than {MOST} fields")));
        }
        self.hash(name.as_bytes());
        let side = || Value::Side(self.side_end..self.side_end);
        self.open = match name.as_str() {
            // The first one: a header of the mail stands before what Mailgun says itself.
            "body-mime" if self.raw.is_none() => {
                self.raw = Some((Vec::new(), None));
                Open::Raw
            }
            "body-plain" | "body-html" => Open::Side(Field { name, file: None, value: side() }),
            known if KEPT.contains(&known) => {
                Open::Memory(Field { name, file: None, value: Value::Memory(Vec::new()) })
            }
            _ if file.is_some() => Open::Side(Field { value: side(), name, file }),
            _ => Open::Nowhere,
        };
        Ok(())
    }

    /// The length of each piece would depend on how it came.
    fn hash(&mut self, name: &[u8]) {
        self.digest.update((name.len() as u64).to_be_bytes());
        self.digest.update(name);
    }

    async fn more(&mut self, piece: &[u8]) -> Result<(), Unread> {
        self.digest.update(piece);
        if matches!(self.open, Open::Nowhere) {
            return Ok(());
        }
        self.taken += piece.len() as u64;
        if self.taken > self.largest {
            return Err(Unread::TooLarge(self.largest));
        }
        match &mut self.open {
            Open::Memory(Field { value: Value::Memory(bytes), .. }) => {
                if bytes.len() + piece.len() > SMALL {
                    return Err(Unread::TooLarge(SMALL as u64));
                }
                bytes.extend_from_slice(piece);
                return Ok(());
            }
            Open::Raw => {
                let first = &mut self.raw.get_or_insert_default().0;
                let room = FIRST.saturating_sub(first.len()).min(piece.len());
                first.extend_from_slice(&piece[..room]);
                self.pending.extend_from_slice(&piece[room..]);
            }
            Open::Side(_) => {
                self.side_end += piece.len() as u64;
                self.pending.extend_from_slice(piece);
            }
            Open::Nowhere | Open::Memory(_) => {}
        }
        if self.pending.len() >= CHUNK { self.write().await } else { Ok(()) }
    }

    /// Writes what is pending, off the runtime's threads.
    async fn write(&mut self) -> Result<(), Unread> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let is_raw = matches!(self.open, Open::Raw);
        let spill =
            if is_raw { self.raw.as_mut().and_then(|(_, rest)| rest.take()) } else { self.side.take() };
        let (store, mut pending) = (self.store.clone(), std::mem::take(&mut self.pending));
        let written = tokio::task::spawn_blocking(move || {
            let mut spill = match spill {
                Some(spill) => spill,
                None => store.spill()?,
            };
            spill.append(&pending)?;
            pending.clear();
            Ok::<_, io::Error>((spill, pending))
        });
        let (spill, pending) = written.await.map_err(io::Error::other)??;
        self.pending = pending;
        match &mut self.raw {
            Some((_, rest)) if is_raw => *rest = Some(spill),
            _ => self.side = Some(spill),
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Unread> {
        self.write().await?;
        self.hash(b"");
        match std::mem::replace(&mut self.open, Open::Nowhere) {
            Open::Memory(field) => self.fields.push(field),
            Open::Side(Field { name, file, value: Value::Side(part) }) => {
                self.fields.push(Field { name, file, value: Value::Side(part.start..self.side_end) });
            }
            Open::Side(_) | Open::Raw | Open::Nowhere => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Upload, Unread> {
        let Self { fields, raw, side, digest, .. } = self;
        if fields.is_empty() && raw.is_none() {
            return Err(Unread::NoForm("it has no field of a mail".to_owned()));
        }
        let mut short = [0; 16];
        short.copy_from_slice(&digest.finalize()[..16]);
        Ok(Upload { fields, raw, side, digest: short })
    }
}

/// A part of an encoded form.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Bytes(Vec<u8>),
    End,
    /// A name that is too long for one.
    Endless,
}

/// Decodes `application/x-www-form-urlencoded` (WHATWG URL, section 5.1) in pieces of any size.
#[derive(Default)]
struct Decoder {
    name: Vec<u8>,
    in_value: bool,
    /// The beginning of an escape.
    escape: Vec<u8>,
}

impl Decoder {
    fn feed(&mut self, piece: &[u8]) -> Vec<Token> {
        let (mut tokens, mut value) = (Vec::new(), Vec::new());
        for &byte in piece {
            match byte {
                b'%' => {
                    self.flush_escape(&mut value);
                    self.escape.push(byte);
                }
                b'&' => {
                    self.flush_escape(&mut value);
                    self.end(&mut value, &mut tokens);
                }
                b'=' if !self.in_value => {
                    self.flush_escape(&mut value);
                    self.begin(&mut tokens);
                }
                byte if !self.escape.is_empty() => self.escaped(byte, &mut value),
                b'+' => self.put(b' ', &mut value),
                byte => self.put(byte, &mut value),
            }
            if self.name.len() > NAME {
                tokens.push(Token::Endless);
                return tokens;
            }
        }
        if !value.is_empty() {
            tokens.push(Token::Bytes(value));
        }
        tokens
    }

    fn finish(&mut self) -> Vec<Token> {
        let (mut tokens, mut value) = (Vec::new(), Vec::new());
        self.flush_escape(&mut value);
        self.end(&mut value, &mut tokens);
        tokens
    }

    fn begin(&mut self, tokens: &mut Vec<Token>) {
        let name = std::mem::take(&mut self.name);
        tokens.push(Token::Name(String::from_utf8_lossy(&name).into_owned()));
        self.in_value = true;
    }

    fn end(&mut self, value: &mut Vec<u8>, tokens: &mut Vec<Token>) {
        if !self.in_value {
            if self.name.is_empty() {
                return;
            }
            self.begin(tokens);
        }
        if !value.is_empty() {
            tokens.push(Token::Bytes(std::mem::take(value)));
        }
        tokens.push(Token::End);
        self.in_value = false;
    }

    fn put(&mut self, byte: u8, value: &mut Vec<u8>) {
        if self.in_value { value.push(byte) } else { self.name.push(byte) }
    }

    fn escaped(&mut self, byte: u8, value: &mut Vec<u8>) {
        self.escape.push(byte);
        if !byte.is_ascii_hexdigit() {
            let last = self.escape.pop();
            self.flush_escape(value);
            if let Some(last) = last {
                self.put(if last == b'+' { b' ' } else { last }, value);
            }
        } else if self.escape.len() == 3 {
            let digits = std::str::from_utf8(&self.escape[1..]).unwrap_or_default();
            let byte = u8::from_str_radix(digits, 16).unwrap_or_default();
            self.escape.clear();
            self.put(byte, value);
        }
    }

    /// What began like an escape and is none stands for itself.
    fn flush_escape(&mut self, value: &mut Vec<u8>) {
        for byte in std::mem::take(&mut self.escape) {
            self.put(byte, value);
        }
    }
}

/// Whether a field of that name is a file, whatever else is said about it.
fn is_attachment(name: &str) -> bool {
    let number = name.strip_prefix("attachment-").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Fields that are kept in memory.
const KEPT: [&str; 10] = [
    "attachment-count",
    "recipient",
    "sender",
    "timestamp",
    "token",
    "signature",
    "message-headers",
    "content-id-map",
    "message-url",
    "subject",
];
/// Bytes of a field in memory.
const SMALL: usize = 1 << 20;
/// Bytes of a raw mail in memory: its header, and most mail altogether.
const FIRST: usize = 256 << 10;
/// The least that is written to a file at a time.
const CHUNK: usize = 64 << 10;
/// Bytes of a field's name.
const NAME: usize = 64 << 10;
/// Fields of one form.
const MOST: usize = 10_000;
/// Bytes on the wire beside what is kept: texts come again without their quotations.
const ASIDE: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use mailtrail_mail::Clock;
    use std::convert::Infallible;

    fn decoded(body: &[u8], size: usize) -> Vec<(String, Vec<u8>)> {
        let (mut decoder, mut pairs) = (Decoder::default(), Vec::<(String, Vec<u8>)>::new());
        let mut tokens: Vec<_> = body.chunks(size).flat_map(|piece| decoder.feed(piece)).collect();
        tokens.extend(decoder.finish());
        for token in tokens {
            match token {
                Token::Name(name) => pairs.push((name, Vec::new())),
                Token::Bytes(bytes) => pairs.last_mut().unwrap().1.extend(bytes),
                Token::End => {}
                Token::Endless => panic!("a name without end"),
            }
        }
        pairs
    }

    #[test]
    fn a_form_is_what_the_library_says_however_it_comes() {
        for body in [
            &b"a=b&c=d"[..],
            b"a+b=%41%zz%4&=x&y&&z=%",
            b"a%3Db=c=d&e=%2B+%2b&%+1=%1+&f=%%41",
            include_bytes!("../../../../../tests/fixtures/mailgun/route_forward_mime.form"),
            include_bytes!("../../../../../tests/fixtures/mailgun/route_forward_parsed.form"),
        ] {
            let expected: Vec<(String, Vec<u8>)> = form_urlencoded::parse(body)
                .map(|(name, value)| (name.into_owned(), value.into_owned().into_bytes()))
                .collect();
            for size in [1, 2, 3, 7, 4096] {
                assert_eq!(decoded(body, size), expected, "in pieces of {size}");
            }
        }
        let endless = Decoder::default().feed(&vec![b'a'; NAME + 1]);
        assert_eq!(endless, [Token::Endless]);
    }

    async fn upload(body: &[u8], content_type: &str, size: usize, largest: u64) -> Result<Upload, Unread> {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let pieces: Vec<_> = body.chunks(size).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
        Upload::read(Body::from_stream(stream::iter(pieces)), content_type, &store, largest).await
    }

    #[tokio::test]
    async fn files_are_what_they_were() {
        let body = include_bytes!(
            "../../../../../tests/fixtures/mailgun/route_forward_parsed_attachments.multipart"
        );
        for size in [1, 100, 100_000] {
            let upload = upload(body, MULTIPART, size, 10_000).await.unwrap();
            let (field, file) = upload.files().next().unwrap();
            assert_eq!((file.name.as_deref(), &*file.content_type), (Some("po.pdf"), "application/pdf"));
            assert_eq!(upload.bytes(field).unwrap(), b"%PDF-1.4\n\0\xff binary, not base64\n%%EOF");
            assert_eq!(upload.whole("body-plain").unwrap().unwrap(), b"see attachment");
            assert_eq!(upload.first("recipient").as_deref(), Some("reply+S00042@mg.example.com"));
        }
    }

    #[tokio::test]
    async fn a_raw_mail_lies_in_memory_and_on_disk() {
        let mail: String = (0..100_000).map(|number| format!("{number}\r\n")).collect();
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("body-mime", &mail).finish();
        let mut read = upload(form.as_bytes(), FORM, 10_000, 1 << 20).await.unwrap();
        let message = read.take_raw().unwrap();
        assert_eq!((message.first().len(), message.size()), (FIRST, mail.len() as u64));
        assert_eq!(message.first(), &mail.as_bytes()[..FIRST]);
        let rest = message.rest().unwrap();
        assert_eq!(rest.read(0..rest.size()).unwrap(), mail.as_bytes()[FIRST..]);
        let large = upload(form.as_bytes(), FORM, 10_000, mail.len() as u64 - 1).await;
        assert!(matches!(large, Err(Unread::TooLarge(_))));
    }

    #[tokio::test]
    async fn the_digest_is_of_what_it_says() {
        let digest = async |body: &str, kind| upload(body.as_bytes(), kind, 5, 1000).await.unwrap().digest;
        let one = digest("sender=a&token=b", FORM).await;
        assert_eq!(one, digest("sender=%61&token=b", FORM).await);
        let parts = "--B\r\nContent-Disposition: form-data; name=\"sender\"\r\n\r\na\r\n--B\r\n\
                     Content-Disposition: form-data; name=\"token\"\r\n\r\nb\r\n--B--\r\n";
        assert_eq!(one, digest(parts, "multipart/form-data; boundary=B").await);
        for other in ["sender=a&token=c", "sender=a&token=b&x=", "token=b&sender=a", "sender=ab&token="] {
            assert_ne!(one, digest(other, FORM).await, "{other}");
        }
    }

    #[tokio::test]
    async fn what_is_no_form_is_told() {
        for (body, kind) in [
            ("", FORM),
            ("{}", FORM),
            ("unknown=1", FORM),
            ("--other\r\n", "multipart/form-data; boundary=B"),
        ] {
            assert!(
                matches!(upload(body.as_bytes(), kind, 10, 1000).await, Err(Unread::NoForm(_))),
                "{body}"
            );
        }
        let many = "a&".repeat(MOST + 1);
        assert!(matches!(upload(many.as_bytes(), FORM, 1000, 1 << 20).await, Err(Unread::NoForm(_))));
    }

    const FORM: &str = "application/x-www-form-urlencoded";
    const MULTIPART: &str = "multipart/form-data; boundary=----mt-fixture-boundary-0001";
}
