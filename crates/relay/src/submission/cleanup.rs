//! From what a client sent to what is kept: our header lines in front, forbidden ones out, everything else as it
//! came; and what the mail says about itself, for the trail.

use crate::submission::rounds::Rounds;
use crate::submission::strip::{Unwanted, convert_mbox_lines, repair};
use bytes::Bytes;
use mail_parser::{HeaderName, MessageParser};
use mailtrail_mail::{
    BodyType, Envelope, HeaderBlock, HeaderCleanup, HeaderLine, Mailbox, MessageId, Record, Timestamp,
    TrackingId, subject,
};
use mailtrail_smtp::{Account, Reply};
use mailtrail_store::{Message, Spill};
use mailtrail_trail::provider::{OWN_ID_HEADER, Provider};
use mailtrail_trail::{Accepted, Routing, Send, Traits};
use std::net::IpAddr;

/// What is known about a message beside its bytes.
pub struct Circumstances<'a> {
    /// The send's new id.
    pub id: TrackingId,
    /// When the message was complete.
    pub now: Timestamp,
    /// Our name.
    pub hostname: &'a str,
    /// Where the client is.
    pub peer: IpAddr,
    /// The name it gave.
    pub client_name: &'a str,
    /// How the mail came (RFC 3848).
    pub protocol: &'static str,
    /// The user, if logged in.
    pub account: Option<&'a Account>,
    /// What is changed in its header.
    pub cleanup: &'a HeaderCleanup,
    /// The providers that the mail may go to.
    pub providers: &'a [Provider],
    /// Which mail goes where.
    pub routing: &'a Routing,
    /// Whether senders get reports.
    pub reports: bool,
    /// Whether duplicates are looked for.
    pub fingerprints: bool,
    /// Its earlier rounds through this relay.
    pub rounds: &'a Rounds,
}

/// Bytes that are left free in front of a message while it is read, so that our lines need no second buffer.
pub const HEADROOM: usize = 2048;

/// Makes the send and its message, or refuses one that cannot be passed on, passed too many servers, or has an author
/// that the user may not claim to be. `buffer` holds [`HEADROOM`] unused bytes and then the message, or of a large one its first
/// part with the whole header section; nothing of the `rest` is looked at.
pub fn accept(
    circumstances: &Circumstances<'_>,
    envelope: Envelope,
    mut buffer: Vec<u8>,
    rest: Option<Spill>,
) -> Result<(Accepted, Message), Reply> {
    let converted = circumstances.cleanup.mbox_line && convert_mbox_lines(&mut buffer);
    let block = HeaderBlock::of(&buffer[HEADROOM..]);
    check_form(&block)?;
    let unwanted = Unwanted::find(circumstances, envelope.sender.is_some(), &block);
    let (blank_line, end) = (block.is_missing(), block.end() - unwanted.len());
    let header_changes = unwanted.changes(converted);
    unwanted.take_out(&mut buffer);
    let saved = repair(circumstances, end, &mut buffer);
    let block = HeaderBlock::ending(&buffer[HEADROOM..], end - saved.unwrap_or_default());
    check_author(circumstances, &buffer[HEADROOM..HEADROOM + block.end()])?;
    let own_id = block.first("Message-ID").map(|field| MessageId::parse(&field.text()));
    let mut lines = vec![received(circumstances, &envelope)];
    lines.push(HeaderLine::new(OWN_ID_HEADER, &circumstances.id.to_string()));
    lines.extend(circumstances.rounds.line());
    let message_id = match own_id {
        Some(own_id) => own_id,
        None => {
            let made = format!("{}@{}", circumstances.id, circumstances.hostname);
            lines.push(HeaderLine::new("Message-ID", &format!("<{made}>")));
            MessageId::parse(&made)
        }
    };
    if block.first("Date").is_none() {
        lines.push(HeaderLine::new("Date", &circumstances.now.rfc5322()));
    }
    if let Some(sender) = envelope.sender.as_ref().filter(|_| block.first("From").is_none()) {
        lines.push(HeaderLine::new("From", &format!("<{}>", plain(sender))));
    }
    let records = records(&block, message_id.as_ref());
    let (lane, route) = circumstances.routing.choose(&Traits {
        user: circumstances.account.map(|account| &*account.name),
        sender: envelope.sender.as_ref(),
        recipients: &envelope.recipients,
        header: block,
    });
    let (subject, tags) = (subject(&buffer[HEADROOM..HEADROOM + block.end()]), tags(&block));
    // Asked for, and needed (RFC 6531 section 3.4): clients ask wherever it is offered. Addresses speak for themselves.
    let smtputf8 = envelope.smtputf8 && !block.bytes().is_ascii();
    let body = buffer.len() - HEADROOM - block.end();
    let message = Message::new(prepend(&lines, blank_line, buffer), rest);
    let send = Send {
        reports: circumstances.reports && envelope.sender.is_some(),
        about: None,
        id: circumstances.id,
        client: circumstances.account.map_or_else(|| circumstances.peer.to_string(), |a| a.client.clone()),
        user: circumstances.account.map(|account| account.name.clone()),
        peer: Some(circumstances.peer),
        sender: envelope.sender,
        body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
        smtputf8,
        dsn: envelope.dsn,
        message_id,
        subject,
        records,
        tags,
        size: message.size(),
        fingerprint: circumstances.fingerprints.then(|| fingerprint(&message, body)),
        lane,
        route,
        repaired: saved.is_some(),
        header_changes,
    };
    Ok((Accepted { send, recipients: envelope.recipients }, message))
}

/// Refuses what readers would disagree about, and what passed too many servers.
fn check_form(block: &HeaderBlock<'_>) -> Result<(), Reply> {
    if memchr::memchr(0, block.bytes()).is_some() {
        return Err(Reply::BadMessage("The header holds a NUL character"));
    }
    let (mut fields, mut hops) = (0, 0);
    for field in block.fields() {
        fields += 1;
        hops += u32::from(field.name.eq_ignore_ascii_case("Received"));
        if hops > HOPS {
            return Err(Reply::Loop);
        }
        if fields > FIELDS {
            return Err(Reply::BadMessage("The header has too many fields"));
        }
    }
    Ok(())
}

/// A user that is bound to some senders may not write others into From and Sender, nor a From that names no address:
/// readers and providers would find one of their own in it.
fn check_author(circumstances: &Circumstances<'_>, header: &[u8]) -> Result<(), Reply> {
    let senders = circumstances.account.map_or(&[][..], |account| &account.senders);
    if senders.is_empty() {
        return Ok(());
    }
    let is_allowed = |address: &String| {
        address.parse().is_ok_and(|author: Mailbox| senders.iter().any(|pattern| author.matches(pattern)))
    };
    // Every From counts: readers differ in which of several they show.
    for field in HeaderBlock::ending(header, header.len()).fields() {
        let is_from = field.name.eq_ignore_ascii_case("From");
        if is_from || field.name.eq_ignore_ascii_case("Sender") {
            let addresses = authors(&[b"From:", field.value, b"\r\n\r\n"].concat());
            if addresses.is_empty() && is_from || !addresses.iter().all(is_allowed) {
                return Err(Reply::SenderRefused);
            }
        }
    }
    // Another reader of the whole section may find a From where the lines above show none.
    if authors(header).iter().all(is_allowed) { Ok(()) } else { Err(Reply::SenderRefused) }
}

/// The addresses in every From of a header section.
fn authors(header: &[u8]) -> Vec<String> {
    let parsed = MessageParser::new().with_address_headers().default_header_ignore().parse_headers(header);
    let fields =
        parsed.iter().flat_map(|message| message.headers()).filter(|field| field.name == HeaderName::From);
    let authors = fields.filter_map(|field| field.value.as_address()).flat_map(|authors| authors.iter());
    authors
        .filter_map(|author| author.address())
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

fn received(circumstances: &Circumstances<'_>, envelope: &Envelope) -> HeaderLine {
    let Circumstances { id, now, hostname, peer, client_name, protocol, .. } = circumstances;
    // RFC 6531 section 4.3: UTF8SMTPSA for ESMTPSA.
    let protocol = match protocol.strip_prefix('E') {
        Some(protocol) if envelope.smtputf8 => format!("UTF8{protocol}"),
        _ => (*protocol).to_owned(),
    };
    let name = if client_name.is_empty() { "unknown" } else { client_name };
    let literal = match peer {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    };
    let by = match &envelope.recipients[..] {
        // With several recipients none is named: it would show a Bcc to the others.
        [only] => format!("by {hostname} with {protocol} id {id} for <{}>;", plain(only)),
        _ => format!("by {hostname} with {protocol} id {id};"),
    };
    HeaderLine::folded("Received", &[&format!("from {name} ({literal})"), &by, &now.rfc5322()])
}

/// An address in a header of ours, which asks for SMTPUTF8 only where nothing else helps.
fn plain(address: &Mailbox) -> Mailbox {
    address.to_ascii().unwrap_or_else(|| address.clone())
}

/// The record of Odoo's Message-ID, which is the one that the mail is about, then those of `X-Odoo-Objects`: a task's
/// mail names its project, too.
fn records(block: &HeaderBlock<'_>, message_id: Option<&MessageId>) -> Vec<Record> {
    let objects = block.first("X-Odoo-Objects").map(|field| field.text()).unwrap_or_default();
    let mut records: Vec<Record> = message_id.and_then(MessageId::odoo_record).into_iter().collect();
    for record in objects.split(',').filter_map(Record::from_odoo_object).take(RECORDS) {
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records
}

fn tags(block: &HeaderBlock<'_>) -> Vec<String> {
    let is_tag =
        |name: &str| name.eq_ignore_ascii_case("X-Mailgun-Tag") || name.eq_ignore_ascii_case("X-Mailin-Tag");
    let tags = block.fields().filter(|field| is_tag(field.name));
    tags.map(|field| field.text().chars().take(TAG).collect()).take(TAGS).collect()
}

/// Puts the lines into the free space in front of the message.
fn prepend(lines: &[HeaderLine], blank_line: bool, mut buffer: Vec<u8>) -> Bytes {
    let mut front = String::with_capacity(HEADROOM);
    for line in lines {
        front.push_str(line.as_str());
        front.push_str("\r\n");
    }
    if blank_line {
        front.push_str("\r\n");
    }
    match HEADROOM.checked_sub(front.len()) {
        Some(start) => {
            buffer[start..HEADROOM].copy_from_slice(front.as_bytes());
            Bytes::from(buffer).slice(start..)
        }
        None => [front.as_bytes(), &buffer[HEADROOM..]].concat().into(),
    }
}

/// What a message has again that has the same body: its CRC32 and its length. `body` bytes of it are in memory.
fn fingerprint(message: &Message, body: usize) -> u64 {
    let start = message.first().len() - body;
    let length = message.size() - start as u64;
    u64::from(message.checksum_from(start)) << 32 | (length & u64::from(u32::MAX))
}

/// Received fields of a message that nobody passes on any more (RFC 5321 section 6.3 asks for at least 100 to be
/// taken on the way to a mailbox; this is where mail begins its way).
const HOPS: u32 = 50;
/// Header fields of a message.
const FIELDS: u32 = 2000;
/// Records of one mail that it can be found by.
const RECORDS: usize = 10;
/// Characters of a tag; Mailgun allows 128.
const TAG: usize = 128;
/// Tags of one mail; Mailgun takes 3.
const TAGS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    static NO_RULES: LazyLock<Routing> = LazyLock::new(Routing::default);
    static ALL: LazyLock<HeaderCleanup> = LazyLock::new(HeaderCleanup::default);
    static NO_ROUNDS: LazyLock<Rounds> = LazyLock::new(Rounds::default);

    fn circumstances() -> Circumstances<'static> {
        Circumstances {
            id: "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap(),
            now: Timestamp::from_seconds(1_789_387_200),
            hostname: "relay.example.com",
            peer: "127.0.0.1".parse().unwrap(),
            client_name: "[127.0.0.1]",
            protocol: "ESMTPSA",
            account: None,
            cleanup: &ALL,
            providers: &[Provider::Mailgun],
            routing: &NO_RULES,
            fingerprints: false,
            reports: true,
            rounds: &NO_ROUNDS,
        }
    }

    fn accepted(message: &str, recipients: &[&str]) -> (Accepted, String) {
        let circumstances = circumstances();
        let recipients = recipients.iter().map(|recipient| recipient.parse().unwrap()).collect();
        let envelope = Envelope { recipients, ..Envelope::default() };
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(message.as_bytes());
        let (accepted, message) = accept(&circumstances, envelope, buffer, None).unwrap();
        (accepted, String::from_utf8(message.first().to_vec()).unwrap())
    }

    #[test]
    fn odoos_unreadable_unsubscribe_is_written_plainly() {
        let header = |id: &str| {
            format!(
                "Message-Id: <{id}>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nlist-unsubscribe : =?utf-8?q?=3Chttps=3A//a=2Eb?=\r\n =?utf-8?q?/c=3E?=\r\n\
                 List-Unsubscribe-Post: =?utf-8?q?x?=\r\n\r\nList-Unsubscribe: =?utf-8?q?=3Chttps=3A//a=2Eb=3E?=\r\n"
            )
        };
        let plain = |id| {
            header(id).replacen("=?utf-8?q?=3Chttps=3A//a=2Eb?=\r\n =?utf-8?q?/c=3E?=", "<https://a.b/c>", 1)
        };
        for (id, repaired) in [("1.2-openerp-3-x.y@vm", true), ("1.2@vm", false)] {
            let (accepted, out) = accepted(&header(id), &["a@example.net"]);
            let expected = if repaired { plain(id) } else { header(id) };
            assert!(out.ends_with(&expected), "{out}");
            assert_eq!((accepted.send.repaired, accepted.send.size), (repaired, out.len() as u64));
        }
        let twice = header("1.2-openerp-3-x.y@vm").replacen(
            "Date: Mon, 14 Sep 2026 11:59:00 +0000",
            "List-Unsubscribe: <https://a.b/>",
            1,
        );
        let (accepted, out) = accepted(&twice, &["a@example.net"]);
        assert!(out.ends_with(&twice) && !accepted.send.repaired, "{out}");
        let circumstances = Circumstances { cleanup: &HeaderCleanup::NONE, ..circumstances() };
        let message = header("1.2-openerp-3-x.y@vm");
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(message.as_bytes());
        let (accepted, kept) = accept(&circumstances, Envelope::default(), buffer, None).unwrap();
        assert!(kept.first().ends_with(message.as_bytes()) && !accepted.send.repaired);
    }

    #[test]
    fn only_lines_in_front_are_added() {
        let message = "Message-Id: <1.2.3-openerp-2-crm.lead@vm>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nSubject: =?utf-8?q?B=C3=BC?=\r\n\r\nhi\r\n";
        let (accepted, out) = accepted(message, &["a@example.net"]);
        assert_eq!(
            out.strip_suffix(message).unwrap(),
            "Received: from [127.0.0.1] ([127.0.0.1])\r\n\tby relay.example.com with ESMTPSA id \
             01K54Z8Q3V7N5X9B2C6D8F0GHJ for <a@example.net>;\r\n\tMon, 14 Sep 2026 12:00:00 +0000\r\n\
             X-Mailtrail-Id: 01K54Z8Q3V7N5X9B2C6D8F0GHJ\r\n"
        );
        assert_eq!(accepted.send.subject, "Bü");
        assert_eq!(accepted.send.records, [Record::parse("crm.lead,2").unwrap()]);
        assert_eq!(accepted.send.size, out.len() as u64);
    }

    #[test]
    fn what_is_missing_is_added() {
        let (send, out) = accepted("hello\r\n", &["a@example.net", "b@example.net"]);
        assert!(out.contains("\r\nMessage-ID: <01K54Z8Q3V7N5X9B2C6D8F0GHJ@relay.example.com>\r\n"));
        assert!(out.ends_with("\r\nDate: Mon, 14 Sep 2026 12:00:00 +0000\r\n\r\nhello\r\n"));
        assert!(!out.contains(" for <") && send.send.message_id.is_some());
    }

    #[test]
    fn clients_cannot_speak_to_the_provider_or_take_our_id() {
        let message = "X-Mailgun-Archive-To: http://evil.example\r\nX-Mailtrail-Id: 1\r\nX-Mailgun-Variables: {\"a\":1}\r\n\
                       Message-ID: <a@b>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\n";
        let (_, out) = accepted(message, &["a@example.net"]);
        assert!(
            out.ends_with("GHJ\r\nX-Mailgun-Variables: {\"a\":1}\r\nMessage-ID: <a@b>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\n"),
            "{out}"
        );
    }

    #[test]
    fn a_missing_author_is_the_sender() {
        for (header, sender, added) in [
            ("Subject: a\r\n", Some("a@example.com"), true),
            ("from: x\r\n", Some("a@example.com"), false),
            ("Subject: a\r\n", None, false),
        ] {
            let envelope = Envelope {
                sender: sender.map(|sender| sender.parse().unwrap()),
                recipients: vec!["b@example.net".parse().unwrap()],
                ..Envelope::default()
            };
            let buffer = [&[0; HEADROOM], header.as_bytes(), b"\r\nhi\r\n"].concat();
            let (_, message) = accept(&circumstances(), envelope, buffer, None).unwrap();
            let text = String::from_utf8(message.first().to_vec()).unwrap();
            assert_eq!(text.contains("\r\nFrom: <a@example.com>\r\n"), added, "{text}");
        }
    }

    #[test]
    fn a_header_stays_one_whatever_is_taken_out_of_it() {
        let message = "X-Mailtrail-Id: 1\r\nno field\r\nSubject: a\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nMessage-ID: <a@b>\r\n\r\nb\r\n";
        let (accepted, out) = accepted(message, &["a@example.net"]);
        assert_eq!(accepted.send.subject, "a");
        assert!(
            out.ends_with("GHJ\r\nno field\r\nSubject: a\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nMessage-ID: <a@b>\r\n\r\nb\r\n"),
            "{out}"
        );
    }

    #[test]
    fn loops_and_broken_headers_are_refused() {
        let received = |hops: u32| "Received: from a by b\r\n".repeat(hops as usize);
        for (header, expected) in [
            (received(HOPS), None),
            (received(HOPS + 1), Some(Reply::Loop)),
            ("A: b\r\n".repeat(FIELDS as usize), None),
            (
                "A: b\r\n".repeat(FIELDS as usize + 1),
                Some(Reply::BadMessage("The header has too many fields")),
            ),
            ("A: \0\r\n".into(), Some(Reply::BadMessage("The header holds a NUL character"))),
        ] {
            let message = format!("{header}\r\nbody \0 {}", received(60));
            let refused = check_form(&HeaderBlock::of(message.as_bytes())).err();
            assert_eq!(refused, expected, "{}", &header[..30.min(header.len())]);
        }
    }

    #[test]
    fn a_bound_user_writes_no_other_author() {
        let account = Account {
            name: "odoo".into(),
            client: "odoo".into(),
            senders: vec!["*@example.com".into()],
            request_headers: Vec::new(),
            cleanup: HeaderCleanup::default(),
        };
        let circumstances = Circumstances { account: Some(&account), ..circumstances() };
        let mut wrong = Vec::new();
        for (from, fine) in [
            ("From: \"Ada\" <ada@example.com>\r\n", true),
            ("From: ada@example.com, eve@example.net\r\n", false),
            ("From: eve@example.net\r\n", false),
            ("From: ada@example.com\r\nFrom: eve@example.net\r\n", false),
            ("From: eve@example.net\r\nFrom: ada@example.com\r\n", false),
            ("Subject: none\r\n", true),
            ("From: Ada =?utf-8?q?L=C3=B6w?=\r\n <ada@example.com>\r\n", true),
            ("From: \"eve@example.net\" <ada@example.com>\r\n", true),
            ("From: ada@example.com (eve@example.net)\r\n", true),
            ("From: Team: ada@example.com, bob@example.com;\r\n", true),
            ("From: ada@example.com\r\nSender: bob@example.com\r\n", true),
            ("From:\r\n", false),
            ("From: \r\n \r\n", false),
            ("From: <>\r\n", false),
            ("From: Ada\r\n", false),
            ("From: \"Ada\" <>\r\n", false),
            ("From: <ada>\r\n", false),
            ("From: undisclosed-senders:;\r\n", false),
            ("From: Team: ada@example.com, eve@example.net;\r\n", false),
            ("From: =?utf-8?q?eve=40example=2Enet?=\r\n", false),
            ("From: =?utf-8?q?=3Ceve=40example=2Enet=3E?=\r\n", false),
            ("From:\r\n eve@example.net\r\n", false),
            ("From: Ada\r\n <eve@example.net>\r\n", false),
            ("From: <eve@example.net> <ada@example.com>\r\n", false),
            ("From: <ada@example.com> <eve@example.net>\r\n", false),
            ("From: ada@example.com\r\nFrom: Ada\r\n", false),
            ("From: Ada\r\nFrom: ada@example.com\r\n", false),
            ("From : eve@example.net\r\n", false),
            ("fRoM: eve@example.net\r\n", false),
            ("From: eve at example.net\r\n", false),
            ("From: ada@example.com\r\nSender: eve@example.net\r\n", false),
            ("Sender: eve@example.net\r\n", false),
            ("From: \u{fffd}\r\n", false),
            ("A: b\r\njunk\r\nFrom: Eve\r\n", false),
        ] {
            let mut buffer = vec![0; HEADROOM];
            buffer.extend_from_slice(format!("{from}\r\nhi\r\n").as_bytes());
            wrong.extend((check_author(&circumstances, &buffer[HEADROOM..]).is_ok() != fine).then_some(from));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn lines_longer_than_the_free_space_fit_too() {
        let recipient = format!("{}@{}.example", "a".repeat(64), "b".repeat(240));
        let line = HeaderLine::new("X-Long", &"c".repeat(HEADROOM));
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(b"A: b\r\n\r\n");
        let message = prepend(&[line], false, buffer);
        assert!(message.ends_with(b"c\r\nA: b\r\n\r\n") && message.starts_with(b"X-Long: c"));
        assert!(accepted("A: b\r\n\r\n", &[&recipient]).1.contains(&recipient));
    }
}
