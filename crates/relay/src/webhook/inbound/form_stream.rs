//! Forms with a mail in them, read piece by piece: what is large goes to disk as it comes.

use crate::webhook::inbound::disposition::ContentDisposition;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use mailtrail_store::{MessageBody, SpillFile, Store};
use multer::{Constraints, Multipart, SizeLimit};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io;
use std::ops::Range;

/// A form whose large fields lie on disk.
pub struct FormUpload {
    fields: Vec<FormField>,
    /// The raw mail, where it has one.
    raw_message: Option<(Vec<u8>, Option<SpillFile>)>,
    /// Where the large fields lie.
    fields_file: Option<SpillFile>,
    /// Of all fields, however they were encoded.
    pub digest: [u8; 16],
}

/// A field that matters.
pub struct FormField {
    /// Its name.
    pub name: String,
    /// What is said about it, if it is a file.
    pub file: Option<FormFile>,
    value: FieldValue,
}

/// What is said about a file.
#[derive(Clone, Default)]
pub struct FormFile {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its type, as it was declared.
    pub content_type: String,
}

enum FieldValue {
    Memory(Vec<u8>),
    File(Range<u64>),
}

/// Why there is no form.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It is larger than may be.
    #[error("the mail is larger than {0} bytes; see `size` in [inbound]")]
    TooLarge(u64),
    /// It is none.
    #[error("the body is no form: {0}")]
    NotAForm(String),
    /// The disk refuses.
    #[error("the mail cannot be written to disk: {0}")]
    Disk(#[from] io::Error),
    /// The connection broke, or was not HTTP any more.
    #[error("the body broke off, or its framing is no HTTP: {0}")]
    Interrupted(String),
}

impl FormUpload {
    /// Reads a form, of either kind, whose fields that matter have at most `largest` bytes together.
    pub async fn read_form(
        body: Body,
        content_type: &str,
        store: &Store,
        largest: u64,
    ) -> Result<Self, FormError> {
        let mut gatherer = FormReader::new(store.clone(), largest);
        match multer::parse_boundary(content_type) {
            Ok(boundary) => gatherer.read_multipart(body.into_data_stream(), boundary).await?,
            Err(_) => gatherer.read_urlencoded(body.into_data_stream()).await?,
        }
        gatherer.finish()
    }

    /// The first field of that name, as text.
    pub fn first_text(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|field| field.name == name).and_then(FormField::to_text)
    }

    /// The last field of that name, as text: what a mail's header brought along stands before.
    pub fn last_text(&self, name: &str) -> Option<String> {
        self.fields.iter().rev().find(|field| field.name == name).and_then(FormField::to_text)
    }

    /// The whole of the last field of that name. It blocks.
    pub fn read_field(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let field = self.fields.iter().rev().find(|field| field.name == name);
        field.map(|field| self.read_bytes(field)).transpose()
    }

    /// The files, in their order.
    pub fn files(&self) -> impl Iterator<Item = (&FormField, &FormFile)> {
        self.fields.iter().filter_map(|field| Some((field, field.file.as_ref()?)))
    }

    /// Files that the form announces and does not hold.
    pub fn count_missing_files(&self) -> u32 {
        let announced: Option<u64> =
            self.last_text("attachment-count").and_then(|count| count.trim().parse().ok());
        let numbered = self.files().filter(|(field, _)| is_attachment_field(&field.name));
        let held: HashSet<&str> = numbered.map(|(field, _)| field.name.as_str()).collect();
        let missing = announced.unwrap_or(0).saturating_sub(held.len() as u64);
        u32::try_from(missing).unwrap_or(u32::MAX)
    }

    /// The whole of a field. It blocks.
    pub fn read_bytes(&self, field: &FormField) -> io::Result<Vec<u8>> {
        match (&field.value, &self.fields_file) {
            (FieldValue::Memory(bytes), _) => Ok(bytes.clone()),
            (FieldValue::File(part), Some(side)) => side.read_range(part.clone()),
            (FieldValue::File(_), None) => Ok(Vec::new()),
        }
    }

    /// Takes the raw mail out, if it has one.
    pub fn take_raw_message(&mut self) -> Option<MessageBody> {
        self.raw_message.take().map(|(first, rest)| MessageBody::new(Bytes::from(first), rest))
    }
}

impl FormField {
    fn to_text(&self) -> Option<String> {
        match &self.value {
            FieldValue::Memory(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            FieldValue::File(_) => None,
        }
    }
}

/// Where a field's bytes go.
enum OpenField {
    Ignored,
    Memory(FormField),
    File(FormField),
    Raw,
}

struct FormReader {
    store: Store,
    max_bytes: u64,
    received_bytes: u64,
    fields: Vec<FormField>,
    raw_message: Option<(Vec<u8>, Option<SpillFile>)>,
    fields_file: Option<SpillFile>,
    /// What is to be written next, to the raw mail's file or to the other.
    pending: Vec<u8>,
    /// Bytes that go to the side, written or pending.
    fields_file_bytes: u64,
    open_field: OpenField,
    digest: Sha256,
    field_count: usize,
}

impl FormReader {
    fn new(store: Store, max_bytes: u64) -> Self {
        Self {
            store,
            max_bytes,
            received_bytes: 0,
            fields: Vec::new(),
            raw_message: None,
            fields_file: None,
            pending: Vec::new(),
            fields_file_bytes: 0,
            open_field: OpenField::Ignored,
            digest: Sha256::new(),
            field_count: 0,
        }
    }

    async fn read_multipart(&mut self, body: BodyDataStream, boundary: String) -> Result<(), FormError> {
        let wire = self.max_wire_bytes();
        let limits = Constraints::new().size_limit(SizeLimit::new().whole_stream(wire));
        let mut parts = Multipart::with_constraints(body, boundary, limits);
        while let Some(mut part) = parts.next_field().await.map_err(|error| self.form_error(&error))? {
            let ContentDisposition { name, file_name } = ContentDisposition::from_headers(part.headers());
            let (name, is_file) = (name.unwrap_or_default(), file_name.is_some());
            let content_type = part.headers().get("content-type").and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or_default().to_owned();
            let file = FormFile { name: file_name.filter(|name| !name.is_empty()), content_type };
            let file = Some(file).filter(|_| is_file || is_attachment_field(&name));
            self.begin_field(name, file)?;
            while let Some(piece) = part.chunk().await.map_err(|error| self.form_error(&error))? {
                self.push(&piece).await?;
            }
            self.end_field().await?;
        }
        Ok(())
    }

    fn form_error(&self, error: &multer::Error) -> FormError {
        match error {
            multer::Error::StreamSizeExceeded { .. } => FormError::TooLarge(self.max_bytes),
            multer::Error::StreamReadFailed(error) => FormError::Interrupted(error.to_string()),
            error => FormError::NotAForm(error.to_string()),
        }
    }

    async fn read_urlencoded(&mut self, mut body: BodyDataStream) -> Result<(), FormError> {
        let (mut decoder, mut seen) = (UrlencodedDecoder::default(), 0);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| FormError::Interrupted(error.to_string()))?;
            seen += piece.len() as u64;
            if seen > self.max_wire_bytes() {
                return Err(FormError::TooLarge(self.max_bytes));
            }
            for token in decoder.feed(&piece) {
                self.handle_token(token).await?;
            }
        }
        for token in decoder.finish() {
            self.handle_token(token).await?;
        }
        Ok(())
    }

    async fn handle_token(&mut self, token: FormToken) -> Result<(), FormError> {
        match token {
            FormToken::Name(name) => {
                let file = is_attachment_field(&name).then(FormFile::default);
                self.begin_field(name, file)
            }
            FormToken::Bytes(bytes) => self.push(&bytes).await,
            FormToken::End => self.end_field().await,
            FormToken::NameTooLong => Err(FormError::NotAForm("a field's name does not end".to_owned())),
        }
    }

    /// Encoded, each byte may take three; and there are fields that do not matter.
    fn max_wire_bytes(&self) -> u64 {
        self.max_bytes.saturating_mul(3).saturating_add(MAX_IGNORED_BYTES)
    }

    fn begin_field(&mut self, name: String, file: Option<FormFile>) -> Result<(), FormError> {
        self.field_count += 1;
        if self.field_count > MAX_FIELDS {
            return Err(FormError::NotAForm(format!("it has more than {MAX_FIELDS} fields")));
        }
        self.hash_field(name.as_bytes());
        let side = || FieldValue::File(self.fields_file_bytes..self.fields_file_bytes);
        self.open_field = match name.as_str() {
            // The first one: a header of the mail stands before what Mailgun says itself.
            "body-mime" if self.raw_message.is_none() => {
                self.raw_message = Some((Vec::new(), None));
                OpenField::Raw
            }
            "body-plain" | "body-html" => OpenField::File(FormField { name, file: None, value: side() }),
            known if BUFFERED_FIELDS.contains(&known) => {
                OpenField::Memory(FormField { name, file: None, value: FieldValue::Memory(Vec::new()) })
            }
            _ if file.is_some() => OpenField::File(FormField { value: side(), name, file }),
            _ => OpenField::Ignored,
        };
        Ok(())
    }

    /// The length of each piece would depend on how it came.
    fn hash_field(&mut self, name: &[u8]) {
        self.digest.update((name.len() as u64).to_be_bytes());
        self.digest.update(name);
    }

    async fn push(&mut self, piece: &[u8]) -> Result<(), FormError> {
        self.digest.update(piece);
        if matches!(self.open_field, OpenField::Ignored) {
            return Ok(());
        }
        self.received_bytes += piece.len() as u64;
        if self.received_bytes > self.max_bytes {
            return Err(FormError::TooLarge(self.max_bytes));
        }
        match &mut self.open_field {
            OpenField::Memory(FormField { value: FieldValue::Memory(bytes), .. }) => {
                if bytes.len() + piece.len() > MAX_FIELD_BYTES_IN_MEMORY {
                    return Err(FormError::TooLarge(MAX_FIELD_BYTES_IN_MEMORY as u64));
                }
                bytes.extend_from_slice(piece);
                return Ok(());
            }
            OpenField::Raw => {
                let first = &mut self.raw_message.get_or_insert_default().0;
                let room = MAX_RAW_BYTES_IN_MEMORY.saturating_sub(first.len()).min(piece.len());
                first.extend_from_slice(&piece[..room]);
                self.pending.extend_from_slice(&piece[room..]);
            }
            OpenField::File(_) => {
                self.fields_file_bytes += piece.len() as u64;
                self.pending.extend_from_slice(piece);
            }
            OpenField::Ignored | OpenField::Memory(_) => {}
        }
        if self.pending.len() >= WRITE_CHUNK_BYTES { self.write_pending().await } else { Ok(()) }
    }

    /// Writes what is pending, off the runtime's threads.
    async fn write_pending(&mut self) -> Result<(), FormError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let is_raw = matches!(self.open_field, OpenField::Raw);
        let spill = if is_raw {
            self.raw_message.as_mut().and_then(|(_, rest)| rest.take())
        } else {
            self.fields_file.take()
        };
        let (store, mut pending) = (self.store.clone(), std::mem::take(&mut self.pending));
        let written = tokio::task::spawn_blocking(move || {
            let mut spill = match spill {
                Some(spill) => spill,
                None => store.create_spill_file()?,
            };
            spill.append(&pending)?;
            pending.clear();
            Ok::<_, io::Error>((spill, pending))
        });
        let (spill, pending) = written.await.map_err(io::Error::other)??;
        self.pending = pending;
        match &mut self.raw_message {
            Some((_, rest)) if is_raw => *rest = Some(spill),
            _ => self.fields_file = Some(spill),
        }
        Ok(())
    }

    async fn end_field(&mut self) -> Result<(), FormError> {
        self.write_pending().await?;
        self.hash_field(b"");
        match std::mem::replace(&mut self.open_field, OpenField::Ignored) {
            OpenField::Memory(field) => self.fields.push(field),
            OpenField::File(FormField { name, file, value: FieldValue::File(part) }) => {
                self.fields.push(FormField {
                    name,
                    file,
                    value: FieldValue::File(part.start..self.fields_file_bytes),
                });
            }
            OpenField::File(_) | OpenField::Raw | OpenField::Ignored => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<FormUpload, FormError> {
        let Self { fields, raw_message, fields_file, digest, .. } = self;
        if fields.is_empty() && raw_message.is_none() {
            return Err(FormError::NotAForm("it has no field of a mail".to_owned()));
        }
        let mut short = [0; 16];
        short.copy_from_slice(&digest.finalize()[..16]);
        Ok(FormUpload { fields, raw_message, fields_file, digest: short })
    }
}

/// A part of an encoded form.
#[derive(Debug, PartialEq, Eq)]
enum FormToken {
    Name(String),
    Bytes(Vec<u8>),
    End,
    /// A name that is too long for one.
    NameTooLong,
}

/// Decodes `application/x-www-form-urlencoded` (WHATWG URL, section 5.1) in pieces of any size.
#[derive(Default)]
struct UrlencodedDecoder {
    name: Vec<u8>,
    in_value: bool,
    /// The beginning of an escape.
    escape: Vec<u8>,
}

impl UrlencodedDecoder {
    fn feed(&mut self, piece: &[u8]) -> Vec<FormToken> {
        let (mut tokens, mut value) = (Vec::new(), Vec::new());
        for &byte in piece {
            match byte {
                b'%' => {
                    self.flush_escape(&mut value);
                    self.escape.push(byte);
                }
                b'&' => {
                    self.flush_escape(&mut value);
                    self.end_field(&mut value, &mut tokens);
                }
                b'=' if !self.in_value => {
                    self.flush_escape(&mut value);
                    self.begin_value(&mut tokens);
                }
                byte if !self.escape.is_empty() => self.push_escaped(byte, &mut value),
                b'+' => self.push_byte(b' ', &mut value),
                byte => self.push_byte(byte, &mut value),
            }
            if self.name.len() > MAX_FIELD_NAME_BYTES {
                tokens.push(FormToken::NameTooLong);
                return tokens;
            }
        }
        if !value.is_empty() {
            tokens.push(FormToken::Bytes(value));
        }
        tokens
    }

    fn finish(&mut self) -> Vec<FormToken> {
        let (mut tokens, mut value) = (Vec::new(), Vec::new());
        self.flush_escape(&mut value);
        self.end_field(&mut value, &mut tokens);
        tokens
    }

    fn begin_value(&mut self, tokens: &mut Vec<FormToken>) {
        let name = std::mem::take(&mut self.name);
        tokens.push(FormToken::Name(String::from_utf8_lossy(&name).into_owned()));
        self.in_value = true;
    }

    fn end_field(&mut self, value: &mut Vec<u8>, tokens: &mut Vec<FormToken>) {
        if !self.in_value {
            if self.name.is_empty() {
                return;
            }
            self.begin_value(tokens);
        }
        if !value.is_empty() {
            tokens.push(FormToken::Bytes(std::mem::take(value)));
        }
        tokens.push(FormToken::End);
        self.in_value = false;
    }

    fn push_byte(&mut self, byte: u8, value: &mut Vec<u8>) {
        if self.in_value { value.push(byte) } else { self.name.push(byte) }
    }

    fn push_escaped(&mut self, byte: u8, value: &mut Vec<u8>) {
        self.escape.push(byte);
        if !byte.is_ascii_hexdigit() {
            let last = self.escape.pop();
            self.flush_escape(value);
            if let Some(last) = last {
                self.push_byte(if last == b'+' { b' ' } else { last }, value);
            }
        } else if self.escape.len() == 3 {
            let digits = std::str::from_utf8(&self.escape[1..]).unwrap_or_default();
            let byte = u8::from_str_radix(digits, 16).unwrap_or_default();
            self.escape.clear();
            self.push_byte(byte, value);
        }
    }

    /// What began like an escape and is none stands for itself.
    fn flush_escape(&mut self, value: &mut Vec<u8>) {
        for byte in std::mem::take(&mut self.escape) {
            self.push_byte(byte, value);
        }
    }
}

/// Whether a field of that name is a file, whatever else is said about it.
fn is_attachment_field(name: &str) -> bool {
    let number = name.strip_prefix("attachment-").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Fields that are kept in memory.
const BUFFERED_FIELDS: [&str; 10] = [
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
const MAX_FIELD_BYTES_IN_MEMORY: usize = 1 << 20;
/// Bytes of a raw mail in memory: its header, and most mail altogether.
const MAX_RAW_BYTES_IN_MEMORY: usize = 256 << 10;
/// The least that is written to a file at a time.
const WRITE_CHUNK_BYTES: usize = 64 << 10;
/// Bytes of a field's name.
const MAX_FIELD_NAME_BYTES: usize = 64 << 10;
/// Fields of one form.
const MAX_FIELDS: usize = 10_000;
/// Bytes on the wire beside what is kept: texts come again without their quotations.
const MAX_IGNORED_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use mailtrail_mail::Clock;
    use std::convert::Infallible;

    fn decode_pairs(body: &[u8], size: usize) -> Vec<(String, Vec<u8>)> {
        let (mut decoder, mut pairs) = (UrlencodedDecoder::default(), Vec::<(String, Vec<u8>)>::new());
        let mut tokens: Vec<_> = body.chunks(size).flat_map(|piece| decoder.feed(piece)).collect();
        tokens.extend(decoder.finish());
        for token in tokens {
            match token {
                FormToken::Name(name) => pairs.push((name, Vec::new())),
                FormToken::Bytes(bytes) => pairs.last_mut().unwrap().1.extend(bytes),
                FormToken::End => {}
                FormToken::NameTooLong => panic!("a name without end"),
            }
        }
        pairs
    }

    #[test]
    fn decodes_like_form_urlencoded_at_any_chunk_size() {
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
                assert_eq!(decode_pairs(body, size), expected, "in pieces of {size}");
            }
        }
        let endless = UrlencodedDecoder::default().feed(&vec![b'a'; MAX_FIELD_NAME_BYTES + 1]);
        assert_eq!(endless, [FormToken::NameTooLong]);
    }

    async fn read_upload(
        body: &[u8],
        content_type: &str,
        size: usize,
        largest: u64,
    ) -> Result<FormUpload, FormError> {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let pieces: Vec<_> = body.chunks(size).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
        FormUpload::read_form(Body::from_stream(stream::iter(pieces)), content_type, &store, largest).await
    }

    #[tokio::test]
    async fn files_are_unchanged() {
        let body = include_bytes!(
            "../../../../../tests/fixtures/mailgun/route_forward_parsed_attachments.multipart"
        );
        for size in [1, 100, 100_000] {
            let upload = read_upload(body, MULTIPART_TYPE, size, 10_000).await.unwrap();
            let (field, file) = upload.files().next().unwrap();
            assert_eq!((file.name.as_deref(), &*file.content_type), (Some("po.pdf"), "application/pdf"));
            assert_eq!(upload.read_bytes(field).unwrap(), b"%PDF-1.4\n\0\xff binary, not base64\n%%EOF");
            assert_eq!(upload.read_field("body-plain").unwrap().unwrap(), b"see attachment");
            assert_eq!(upload.first_text("recipient").as_deref(), Some("reply+S00042@mg.example.com"));
        }
    }

    #[tokio::test]
    async fn splits_raw_message_between_memory_and_disk() {
        let mail: String = (0..100_000).map(|number| format!("{number}\r\n")).collect();
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("body-mime", &mail).finish();
        let mut read = read_upload(form.as_bytes(), URLENCODED_TYPE, 10_000, 1 << 20).await.unwrap();
        let message = read.take_raw_message().unwrap();
        assert_eq!((message.head().len(), message.size()), (MAX_RAW_BYTES_IN_MEMORY, mail.len() as u64));
        assert_eq!(message.head(), &mail.as_bytes()[..MAX_RAW_BYTES_IN_MEMORY]);
        let rest = message.tail().unwrap();
        assert_eq!(rest.read_range(0..rest.size()).unwrap(), mail.as_bytes()[MAX_RAW_BYTES_IN_MEMORY..]);
        let large = read_upload(form.as_bytes(), URLENCODED_TYPE, 10_000, mail.len() as u64 - 1).await;
        assert!(matches!(large, Err(FormError::TooLarge(_))));
    }

    #[tokio::test]
    async fn digest_covers_decoded_fields() {
        let digest =
            async |body: &str, kind| read_upload(body.as_bytes(), kind, 5, 1000).await.unwrap().digest;
        let one = digest("sender=a&token=b", URLENCODED_TYPE).await;
        assert_eq!(one, digest("sender=%61&token=b", URLENCODED_TYPE).await);
        let parts = "--B\r\nContent-Disposition: form-data; name=\"sender\"\r\n\r\na\r\n--B\r\n\
                     Content-Disposition: form-data; name=\"token\"\r\n\r\nb\r\n--B--\r\n";
        assert_eq!(one, digest(parts, "multipart/form-data; boundary=B").await);
        for other in ["sender=a&token=c", "sender=a&token=b&x=", "token=b&sender=a", "sender=ab&token="] {
            assert_ne!(one, digest(other, URLENCODED_TYPE).await, "{other}");
        }
    }

    #[tokio::test]
    async fn rejects_bodies_that_are_no_form() {
        for (body, kind) in [
            ("", URLENCODED_TYPE),
            ("{}", URLENCODED_TYPE),
            ("unknown=1", URLENCODED_TYPE),
            ("--other\r\n", "multipart/form-data; boundary=B"),
        ] {
            assert!(
                matches!(read_upload(body.as_bytes(), kind, 10, 1000).await, Err(FormError::NotAForm(_))),
                "{body}"
            );
        }
        let many = "a&".repeat(MAX_FIELDS + 1);
        assert!(matches!(
            read_upload(many.as_bytes(), URLENCODED_TYPE, 1000, 1 << 20).await,
            Err(FormError::NotAForm(_))
        ));
    }

    const URLENCODED_TYPE: &str = "application/x-www-form-urlencoded";
    const MULTIPART_TYPE: &str = "multipart/form-data; boundary=----mt-fixture-boundary-0001";
}
