//! Properties that hold for any input. Each function panics on a violation. The fuzz targets include this file.

use mailtrail_mail::{
    BodyType, Envelope, HeaderCleanup, HeaderField, HeaderSection, Notify, Ret, Timestamp, is_usable_author,
    is_usable_date, is_usable_message_id,
};
use mailtrail_smtp::{
    Account, Action, Authentication, Command, Decoder, DotStuffer, FeedResult, Limits, Reply, Session,
    SessionPolicy,
};
use mailtrail_trail::provider::{Provider, TRACKING_ID_HEADER};
use std::ops::Range;
use std::sync::Arc;

/// Checks a command line: it parses or is rejected. A parsed command contains no line break and parses to itself
/// again.
pub fn command(line: &[u8]) {
    let Ok(command) = Command::parse(line) else { return };
    let again = match &command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!(!name.contains(|c: char| c.is_control() || c == ' '), "{name:?}");
            return;
        }
        Command::Mail { envelope: Envelope { sender, body, smtputf8, dsn, .. }, size } => {
            let sender = sender.as_ref().map_or("", |sender| sender.as_str());
            let mut line = format!("MAIL FROM:<{sender}>");
            line.extend(size.map(|size| format!(" SIZE={size}")));
            line.push_str(if *body == BodyType::EightBitMime { " BODY=8BITMIME" } else { "" });
            line.push_str(if *smtputf8 { " SMTPUTF8" } else { "" });
            line.extend(dsn.ret.map(|ret| if ret == Ret::Full { " RET=FULL" } else { " RET=HDRS" }));
            line.extend(dsn.envid.as_ref().map(|envid| format!(" ENVID={envid}")));
            line
        }
        Command::Rcpt { recipient, dsn } => {
            let mut line = format!("RCPT TO:<{recipient}>");
            line.extend(dsn.notify.map(notify));
            line.extend(dsn.orcpt.as_ref().map(|orcpt| format!(" ORCPT={orcpt}")));
            line
        }
        Command::Bdat { size, last } => format!("BDAT {size}{}", if *last { " LAST" } else { "" }),
        _ => return,
    };
    assert!(!again.contains(char::is_control), "{again:?}");
    if let Command::Mail { envelope: Envelope { sender: Some(address), .. }, .. }
    | Command::Rcpt { recipient: address, .. } = &command
    {
        assert!(!address.domain().contains(char::is_whitespace), "{again:?}");
    }
    assert_eq!(Command::parse(again.as_bytes()), Ok(command));
}

fn notify(notify: Notify) -> String {
    let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let words: Vec<_> = words.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| *word).collect();
    format!(" NOTIFY={}", if words.is_empty() { "NEVER".to_owned() } else { words.join(",") })
}

/// Checks the data decoder. The result does not depend on the chunks, ends at the first CRLF.CRLF, and passes
/// unchanged through an upstream's encoder and decoder.
pub fn data(wire: &[u8], cuts: &[u8]) {
    let decoded = decode(pieces(wire, cuts), LIMIT);
    assert_eq!(decoded, decode([wire].into_iter(), LIMIT), "in pieces {cuts:?}");
    let (message, end) = decoded;
    assert_eq!(end, end_of_data(wire));
    let Some(end) = end else { return };
    assert_eq!(message, as_lines(&wire[..end - 3]), "by the book");
    let encoded = encode(pieces(&message, cuts));
    assert_eq!(decode(pieces(&encoded, cuts), LIMIT), (message.clone(), Some(encoded.len())));
    let (some, at) = decode(pieces(wire, cuts), message.len() as u64 / 2);
    assert!(at == Some(end) && message.starts_with(&some) && some.len() <= message.len() / 2);
}

/// Checks the relayed form of a message: our lines in front, foreign, hidden and unusable fields removed, mbox lines
/// turned into fields, and no other byte changed.
pub fn relayed(message: &[u8], relayed: &[u8], provider: Provider, sender: &str) {
    let message = &*with_mbox_fields(message);
    let block = HeaderSection::parse(message);
    let (header, body) = message.split_at(block.end());
    let mut kept = Vec::new();
    let mut at = 0;
    for Range { start, end } in unwanted(&block, provider, !sender.is_empty()) {
        assert!(start == 0 || message[start - 1] == b'\n', "no whole line");
        kept.extend_from_slice(&header[at..start]);
        at = end;
    }
    kept.extend_from_slice(&header[at..]);
    let end = kept.len();
    kept.extend_from_slice(body);
    let front = relayed.strip_suffix(&*kept).expect("all other bytes are as they were");
    let front = if block.is_absent() { front.strip_suffix(b"\r\n").expect("a blank line") } else { front };
    let block = HeaderSection::with_end(&kept, end);
    assert!(front.ends_with(b"\r\n"));
    let names: Vec<_> = HeaderSection::parse(front).fields().map(|field| field.name).collect();
    let missing = |name: &&str| block.find_field(name).is_none() && (*name != "From" || !sender.is_empty());
    let added = ["Message-ID", "Date", "From"].into_iter().filter(missing);
    assert_eq!(names, ["Received", TRACKING_ID_HEADER].into_iter().chain(added).collect::<Vec<_>>());
    let whole = HeaderSection::parse(relayed);
    assert_eq!(whole.end(), front.len() + block.end());
    let ids = whole.fields().filter(|field| field.name.eq_ignore_ascii_case(TRACKING_ID_HEADER));
    assert_eq!(ids.count(), 1);
}

fn with_mbox_fields(message: &[u8]) -> Vec<u8> {
    let block = HeaderSection::parse_after_mbox_lines(message);
    let lines = block.mbox_lines();
    let mut whole = Vec::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        whole.extend_from_slice(b"X-Mailbox-Line: ");
        whole.extend_from_slice(line);
    }
    if !lines.is_empty() && block.is_absent() {
        whole.extend_from_slice(b"\r\n");
    }
    whole.extend_from_slice(&message[lines.len()..]);
    whole
}

/// Returns the ranges of the fields that are removed.
fn unwanted(block: &HeaderSection<'_>, provider: Provider, has_sender: bool) -> Vec<Range<usize>> {
    let is = |field: &HeaderField<'_>, name: &str| field.name.eq_ignore_ascii_case(name);
    let usable = |field: &HeaderField<'_>| match () {
        () if is(field, "Message-ID") => is_usable_message_id(&field.to_text()),
        () if is(field, "Date") => is_usable_date(&field.to_text()),
        () if is(field, "From") => is_usable_author(field.value),
        () => true,
    };
    let another =
        |field: &HeaderField<'_>| block.fields().any(|other| is(&other, field.name) && usable(&other));
    let goes = |field: &HeaderField<'_>| {
        HeaderCleanup::DROPPABLE_HEADERS.iter().any(|name| is(field, name))
            || provider.is_forbidden_header(field, &[], Timestamp::from_secs(1_789_387_200))
            || (!usable(field) && (!is(field, "From") || has_sender || another(field)))
    };
    block.fields().filter(goes).map(|field| field.span).collect()
}

/// Replies and messages of one session.
#[derive(Debug, Default)]
pub struct Transcript {
    /// Code of each reply.
    pub codes: Vec<u16>,
    /// Accepted messages.
    pub accepted: Vec<AcceptedMail>,
}

/// Accepted message.
#[derive(Debug)]
pub struct AcceptedMail {
    /// Empty for `<>`.
    pub sender: String,
    /// Recipients in order.
    pub recipients: Vec<String>,
    /// The message as it is relayed.
    pub message: Vec<u8>,
}

/// Runs a whole session and checks it: each line gets one well-formed reply, and mail is accepted only after the
/// required TLS, greeting and authentication, with an allowed number of recipients.
pub fn session(input: &[u8], rules: SessionPolicy) -> Transcript {
    let rules = Arc::new(rules);
    let mut session = Session::new(rules.clone(), false, false);
    let (mut talk, mut chunks) = (Transcript::default(), None);
    let (mut secured, mut greeted, mut recipients) = (false, false, Vec::new());
    talk.codes.push(code(&session.greeting_reply()));
    let mut rest = input;
    while let Some((line, behind)) = line(rest) {
        rest = behind;
        let step = match line {
            Some(line) => session.on_line(line),
            None => session.on_line_too_long(),
        };
        let step = match step {
            Action::OpenTransaction { .. } => Action::Reply(Reply::SenderOk),
            step => step,
        };
        let parsed = line.and_then(|line| Command::parse(line).ok());
        if !session.is_receiving_chunks() {
            chunks = None;
        }
        match step {
            Action::Reply(reply) => {
                talk.codes.push(code(&reply));
                match (reply, parsed) {
                    (Reply::Ehlo { .. }, _) => (greeted, recipients) = (true, Vec::new()),
                    (Reply::SenderOk, _) => {
                        assert!(greeted && (secured || !rules.require_tls));
                        assert!(session.account().is_some() || rules.authentication == Authentication::None);
                        recipients.clear();
                    }
                    (Reply::Ok, Some(Command::Rset)) => recipients.clear(),
                    _ => {}
                }
            }
            Action::CheckRecipient(recipient) => {
                talk.codes.push(code(&Reply::RecipientOk));
                recipients.push(recipient.to_string());
                assert!(recipients.len() <= rules.max_recipients);
            }
            Action::Close(reply) => {
                talk.codes.push(code(&reply));
                break;
            }
            Action::StartTls(reply) => {
                talk.codes.push(code(&reply));
                assert!(rules.offer_starttls && !secured);
                session.on_tls();
                (secured, greeted, recipients) = (true, false, Vec::new());
                assert!(session.account().is_none() && session.client_name().is_empty());
            }
            Action::Authenticate(credentials) => {
                assert!(secured || !rules.require_tls);
                let reply = if credentials.user == credentials.password.expose() {
                    session.on_authenticated(Arc::new(account(credentials.user)))
                } else {
                    Reply::AuthFailed
                };
                match session.reply_counted(reply) {
                    Action::Reply(reply) => talk.codes.push(code(&reply)),
                    Action::Close(reply) => {
                        talk.codes.push(code(&reply));
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Action::ReceiveData(reply) => {
                talk.codes.push(code(&reply));
                assert!(!recipients.is_empty());
                let (message, end) = decode([rest].into_iter(), LIMIT);
                let Some(end) = end else { break };
                rest = &rest[end..];
                finish(&mut session, message, &mut recipients, &rules, &mut talk);
            }
            Action::ReceiveChunk { size, last, rejection } => {
                let Some((chunk, behind)) =
                    usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size))
                else {
                    break;
                };
                rest = behind;
                if rejection.is_none() {
                    let (decoder, message) = chunks.get_or_insert((Decoder::for_bdat(LIMIT), Vec::new()));
                    decoder.feed(chunk, message);
                    if last {
                        decoder.finish(message);
                    }
                }
                let taken = chunks.as_ref().map_or(0, |(_, message)| message.len() as u64);
                match rejection {
                    Some(refusal) => match session.reply_counted(refusal) {
                        Action::Reply(reply) => talk.codes.push(code(&reply)),
                        Action::Close(reply) => {
                            talk.codes.push(code(&reply));
                            break;
                        }
                        other => panic!("{other:?}"),
                    },
                    None if last => {
                        let (_, message) = chunks.take().expect("there are chunks");
                        finish(&mut session, message, &mut recipients, &rules, &mut talk);
                    }
                    None if taken > rules.max_message_bytes => {
                        session.take_envelope();
                        talk.codes.push(code(&Reply::MessageTooLarge { limit: rules.max_message_bytes }));
                    }
                    None => talk.codes.push(250),
                }
            }
            Action::OpenTransaction { .. } => unreachable!("it is a reply by now"),
            Action::ApplyXclient(_) => panic!("nobody is trusted"),
        }
    }
    talk
}

fn finish(
    session: &mut Session,
    message: Vec<u8>,
    recipients: &mut Vec<String>,
    rules: &SessionPolicy,
    talk: &mut Transcript,
) {
    let envelope = session.take_envelope().expect("there is a transaction");
    let asked: Vec<_> = envelope.recipients.iter().map(ToString::to_string).collect();
    assert_eq!(asked, std::mem::take(recipients));
    let reply = if message.len() as u64 > rules.max_message_bytes {
        Reply::MessageTooLarge { limit: rules.max_message_bytes }
    } else if HeaderSection::parse(&message).as_bytes().contains(&0) {
        Reply::BadMessage("")
    } else {
        session.on_message_accepted();
        talk.codes.push(250);
        let sender = envelope.sender.map(|sender| sender.to_string()).unwrap_or_default();
        talk.accepted.push(AcceptedMail { sender, recipients: asked, message });
        return;
    };
    talk.codes.push(code(&reply));
}

/// Returns the next line without its end, `None` in its place if it is too long, and the rest.
fn line(input: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (line, rest) = match input.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None if input.len() >= Limits::MAX_COMMAND_LINE_BYTES => (input, &[][..]),
        None => return None,
    };
    let short = line.len() < Limits::MAX_COMMAND_LINE_BYTES;
    Some((short.then(|| line.strip_suffix(b"\r").unwrap_or(line)), rest))
}

/// Returns the code of a reply and checks its form (RFC 5321 section 4.2).
fn code(reply: &Reply) -> u16 {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    replies(&wire)[..].try_into().map(|[code]: [u16; 1]| code).expect("one reply")
}

/// Returns the codes of well-formed replies.
pub fn replies(wire: &[u8]) -> Vec<u16> {
    let text = std::str::from_utf8(wire).expect("replies are text");
    let mut codes = Vec::new();
    let mut open = None;
    for line in text.split_inclusive('\n') {
        let line = line.strip_suffix("\r\n").expect("a line ends with CRLF");
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        let code: u16 = line[..3].parse().expect("a code");
        assert!((200..600).contains(&code) && open.is_none_or(|open| open == code), "{line:?}");
        match &line[3..4] {
            "-" => open = Some(code),
            " " => {
                codes.push(code);
                open = None;
            }
            _ => panic!("{line:?}"),
        }
    }
    assert_eq!(open, None, "the last reply has its last line");
    codes
}

fn account(name: String) -> Account {
    Account {
        client_label: name.clone(),
        name,
        sender_patterns: vec!["*@example.com".into()],
        allowed_request_headers: Vec::new(),
        header_cleanup: HeaderCleanup::default(),
    }
}

/// Decodes pieces; returns the message and the number of consumed bytes at the end of the data.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, limit: u64) -> (Vec<u8>, Option<usize>) {
    let (mut decoder, mut out, mut taken) = (Decoder::new(limit), Vec::new(), 0);
    for piece in pieces {
        match decoder.feed(piece, &mut out) {
            FeedResult::NeedMore => taken += piece.len(),
            FeedResult::Complete(used) => return (out, Some(taken + used)),
        }
    }
    (out, None)
}

fn encode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut encoder, mut wire) = (DotStuffer::default(), Vec::new());
    for piece in pieces {
        let mut from = 0;
        for at in encoder.positions(piece) {
            wire.extend_from_slice(&piece[from..at]);
            wire.push(b'.');
            from = at;
        }
        wire.extend_from_slice(&piece[from..]);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Returns the position after the first CRLF.CRLF. The data starts after a CRLF.
fn end_of_data(wire: &[u8]) -> Option<usize> {
    if wire.starts_with(b".\r\n") {
        return Some(3);
    }
    wire.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5)
}

/// Decodes a message line by line: every line end becomes CRLF, and a dot at the start of a longer line is removed,
/// except after a bare CR.
fn as_lines(wire: &[u8]) -> Vec<u8> {
    let (mut message, mut rest, mut behind) = (Vec::new(), wire, &b"\r\n"[..]);
    while !rest.is_empty() {
        let length = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).expect("a line ends");
        let (line, at_end) = rest.split_at(length);
        let end = if at_end.starts_with(b"\r\n") { &at_end[..2] } else { &at_end[..1] };
        let stuffed = behind != b"\r" && line.len() > 1 && line.starts_with(b".");
        message.extend_from_slice(&line[usize::from(stuffed)..]);
        message.extend_from_slice(b"\r\n");
        (rest, behind) = (&at_end[end.len()..], end);
    }
    message
}

/// Returns the bytes in pieces; `cuts` are the lengths, repeated.
fn pieces<'a>(bytes: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = cuts.iter().map(|&cut| usize::from(cut) + 1).cycle();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = lengths.next().unwrap_or(rest.len()).min(rest.len());
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

const LIMIT: u64 = 1 << 30;
