//! Converts a client's message into the stored message: adds our header lines, removes forbidden fields, keeps every
//! other byte, and extracts the attributes for the trail.

use crate::submission::message_context::{HEADER_HEADROOM, MessageContext};
use crate::submission::strip::{RemovedFields, convert_mbox_lines, rewrite_list_unsubscribe};
use bytes::Bytes;
use mail_parser::{HeaderName, MessageParser};
use mailtrail_mail::{
    BodyType, Envelope, HeaderLine, HeaderSection, Mailbox, MessageId, OdooRecord, decode_subject,
};
use mailtrail_smtp::Reply;
use mailtrail_store::{MessageBody, SpillFile};
use mailtrail_trail::provider::TRACKING_ID_HEADER;
use mailtrail_trail::{AcceptedMessage, Message, MessageAttributes};
use std::net::IpAddr;

/// Makes the send and its message, or refuses one that cannot be passed on, passed too many servers, or has an author
/// that the user may not claim to be. `buffer` holds [`HEADER_HEADROOM`] unused bytes and then the message, or of a large one its first
/// part with the whole header section; nothing of the `rest` is looked at.
pub fn accept_message(
    circumstances: &MessageContext<'_>,
    envelope: Envelope,
    mut buffer: Vec<u8>,
    rest: Option<SpillFile>,
) -> Result<(AcceptedMessage, MessageBody), Reply> {
    let converted = circumstances.cleanup.convert_mbox_line && convert_mbox_lines(&mut buffer);
    let block = HeaderSection::parse(&buffer[HEADER_HEADROOM..]);
    check_headers(&block)?;
    let unwanted = RemovedFields::find_in(circumstances, envelope.sender.is_some(), &block);
    let (blank_line, end) = (block.is_absent(), block.end() - unwanted.total_bytes());
    let header_changes = unwanted.changes(converted);
    unwanted.remove_from(&mut buffer);
    let saved = rewrite_list_unsubscribe(circumstances, end, &mut buffer);
    let block = HeaderSection::with_end(&buffer[HEADER_HEADROOM..], end - saved.unwrap_or_default());
    check_author(circumstances, &buffer[HEADER_HEADROOM..HEADER_HEADROOM + block.end()])?;
    let own_id = block.find_field("Message-ID").map(|field| MessageId::parse(&field.to_text()));
    let mut lines = vec![received_header(circumstances, &envelope)];
    lines.push(HeaderLine::new(TRACKING_ID_HEADER, &circumstances.id.to_string()));
    lines.extend(circumstances.relay_history.via_header_line());
    let message_id = match own_id {
        Some(own_id) => own_id,
        None => {
            let made = format!("{}@{}", circumstances.id, circumstances.hostname);
            lines.push(HeaderLine::new("Message-ID", &format!("<{made}>")));
            MessageId::parse(&made)
        }
    };
    if block.find_field("Date").is_none() {
        lines.push(HeaderLine::new("Date", &circumstances.now.to_rfc5322()));
    }
    if let Some(sender) = envelope.sender.as_ref().filter(|_| block.find_field("From").is_none()) {
        lines.push(HeaderLine::new("From", &format!("<{}>", to_ascii_address(sender))));
    }
    let records = odoo_records(&block, message_id.as_ref());
    let (lane, route) = circumstances.routing.choose_route(&MessageAttributes {
        user: circumstances.account.map(|account| &*account.name),
        sender: envelope.sender.as_ref(),
        recipients: &envelope.recipients,
        header: block,
    });
    let (subject, tags) =
        (decode_subject(&buffer[HEADER_HEADROOM..HEADER_HEADROOM + block.end()]), parse_tags(&block));
    // Set only if needed (RFC 6531 section 3.4), because clients request it wherever it is offered. Addresses show by
    // themselves that they need it.
    let smtputf8 = envelope.smtputf8 && !block.as_bytes().is_ascii();
    let body = buffer.len() - HEADER_HEADROOM - block.end();
    let message = MessageBody::new(prepend_lines(&lines, blank_line, buffer), rest);
    let send = Message {
        wants_dsn: circumstances.dsn_enabled && envelope.sender.is_some(),
        dsn_for: None,
        id: circumstances.id,
        client: circumstances
            .account
            .map_or_else(|| circumstances.peer.to_string(), |a| a.client_label.clone()),
        user: circumstances.account.map(|account| account.name.clone()),
        peer: Some(circumstances.peer),
        sender: envelope.sender,
        body_type: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
        smtputf8,
        dsn: envelope.dsn,
        message_id,
        subject,
        odoo_records: records,
        tags,
        size: message.size(),
        body_fingerprint: circumstances.needs_fingerprint.then(|| body_fingerprint(&message, body)),
        lane,
        route,
        list_unsubscribe_rewritten: saved.is_some(),
        header_changes,
    };
    Ok((AcceptedMessage { message: send, recipients: envelope.recipients }, message))
}

/// Refuses what readers would disagree about, and what passed too many servers.
fn check_headers(block: &HeaderSection<'_>) -> Result<(), Reply> {
    if memchr::memchr(0, block.as_bytes()).is_some() {
        return Err(Reply::BadMessage("The header holds a NUL character"));
    }
    let (mut fields, mut hops) = (0, 0);
    for field in block.fields() {
        fields += 1;
        hops += u32::from(field.name.eq_ignore_ascii_case("Received"));
        if hops > MAX_RECEIVED_FIELDS {
            return Err(Reply::MailLoop);
        }
        if fields > MAX_HEADER_FIELDS {
            return Err(Reply::BadMessage("The header has too many fields"));
        }
    }
    Ok(())
}

/// A user that is bound to some senders may not write others into From and Sender, nor a From that names no address:
/// readers and providers would find one of their own in it.
fn check_author(circumstances: &MessageContext<'_>, header: &[u8]) -> Result<(), Reply> {
    let senders = circumstances.account.map_or(&[][..], |account| &account.sender_patterns);
    if senders.is_empty() {
        return Ok(());
    }
    let is_allowed = |address: &String| {
        address
            .parse()
            .is_ok_and(|author: Mailbox| senders.iter().any(|pattern| author.matches_pattern(pattern)))
    };
    // Every From counts: readers differ in which of several they show.
    for field in HeaderSection::with_end(header, header.len()).fields() {
        let is_from = field.name.eq_ignore_ascii_case("From");
        if is_from || field.name.eq_ignore_ascii_case("Sender") {
            let addresses = parse_authors(&[b"From:", field.value, b"\r\n\r\n"].concat());
            if addresses.is_empty() && is_from || !addresses.iter().all(is_allowed) {
                return Err(Reply::SenderNotAllowed);
            }
        }
    }
    // Another reader of the whole section may find a From where the lines above show none.
    if parse_authors(header).iter().all(is_allowed) { Ok(()) } else { Err(Reply::SenderNotAllowed) }
}

/// The addresses in every From of a header section.
fn parse_authors(header: &[u8]) -> Vec<String> {
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

fn received_header(circumstances: &MessageContext<'_>, envelope: &Envelope) -> HeaderLine {
    let MessageContext { id, now, hostname, peer, client_name, protocol, .. } = circumstances;
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
        [only] => format!("by {hostname} with {protocol} id {id} for <{}>;", to_ascii_address(only)),
        _ => format!("by {hostname} with {protocol} id {id};"),
    };
    HeaderLine::folded("Received", &[&format!("from {name} ({literal})"), &by, &now.to_rfc5322()])
}

/// Converts an address for our header lines, so that SMTPUTF8 is required only if there is no ASCII form.
fn to_ascii_address(address: &Mailbox) -> Mailbox {
    address.to_ascii().unwrap_or_else(|| address.clone())
}

/// The record of Odoo's Message-ID, which is the one that the mail is about, then those of `X-Odoo-Objects`: a task's
/// mail names its project, too.
fn odoo_records(block: &HeaderSection<'_>, message_id: Option<&MessageId>) -> Vec<OdooRecord> {
    let objects = block.find_field("X-Odoo-Objects").map(|field| field.to_text()).unwrap_or_default();
    let mut records: Vec<OdooRecord> = message_id.and_then(MessageId::odoo_record).into_iter().collect();
    for record in objects.split(',').filter_map(OdooRecord::from_odoo_object).take(MAX_ODOO_RECORDS) {
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records
}

fn parse_tags(block: &HeaderSection<'_>) -> Vec<String> {
    let is_tag =
        |name: &str| name.eq_ignore_ascii_case("X-Mailgun-Tag") || name.eq_ignore_ascii_case("X-Mailin-Tag");
    let tags = block.fields().filter(|field| is_tag(field.name));
    tags.map(|field| field.to_text().chars().take(MAX_TAG_CHARS).collect()).take(MAX_TAGS).collect()
}

/// Puts the lines into the free space in front of the message.
fn prepend_lines(lines: &[HeaderLine], blank_line: bool, mut buffer: Vec<u8>) -> Bytes {
    let mut front = String::with_capacity(HEADER_HEADROOM);
    for line in lines {
        front.push_str(line.as_str());
        front.push_str("\r\n");
    }
    if blank_line {
        front.push_str("\r\n");
    }
    match HEADER_HEADROOM.checked_sub(front.len()) {
        Some(start) => {
            buffer[start..HEADER_HEADROOM].copy_from_slice(front.as_bytes());
            Bytes::from(buffer).slice(start..)
        }
        None => [front.as_bytes(), &buffer[HEADER_HEADROOM..]].concat().into(),
    }
}

/// Fingerprint of a message body: its CRC32 and length. `body` bytes of it are in memory.
fn body_fingerprint(message: &MessageBody, body: usize) -> u64 {
    let start = message.head().len() - body;
    let length = message.size() - start as u64;
    u64::from(message.checksum_from(start)) << 32 | (length & u64::from(u32::MAX))
}

/// Maximum number of Received fields. RFC 5321 section 6.3 requires at least 100 on the way to a mailbox, but here mail
/// begins its way.
const MAX_RECEIVED_FIELDS: u32 = 50;
/// Header fields of a message.
const MAX_HEADER_FIELDS: u32 = 2000;
/// Records of one mail that it can be found by.
const MAX_ODOO_RECORDS: usize = 10;
/// Characters of a tag; Mailgun allows 128.
const MAX_TAG_CHARS: usize = 128;
/// Tags of one mail; Mailgun takes 3.
const MAX_TAGS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::rounds::RelayHistory;
    use mailtrail_mail::HeaderCleanup;
    use mailtrail_mail::Timestamp;
    use mailtrail_smtp::Account;
    use mailtrail_trail::Routing;
    use mailtrail_trail::provider::Provider;
    use std::sync::LazyLock;

    static NO_ROUTING: LazyLock<Routing> = LazyLock::new(Routing::default);
    static FULL_CLEANUP: LazyLock<HeaderCleanup> = LazyLock::new(HeaderCleanup::default);
    static NO_HISTORY: LazyLock<RelayHistory> = LazyLock::new(RelayHistory::default);

    fn test_context() -> MessageContext<'static> {
        MessageContext {
            id: "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap(),
            now: Timestamp::from_secs(1_789_387_200),
            hostname: "relay.example.com",
            peer: "127.0.0.1".parse().unwrap(),
            client_name: "[127.0.0.1]",
            protocol: "ESMTPSA",
            account: None,
            cleanup: &FULL_CLEANUP,
            providers: &[Provider::Mailgun],
            routing: &NO_ROUTING,
            needs_fingerprint: false,
            dsn_enabled: true,
            relay_history: &NO_HISTORY,
        }
    }

    fn accept_text(message: &str, recipients: &[&str]) -> (AcceptedMessage, String) {
        let circumstances = test_context();
        let recipients = recipients.iter().map(|recipient| recipient.parse().unwrap()).collect();
        let envelope = Envelope { recipients, ..Envelope::default() };
        let mut buffer = vec![0; HEADER_HEADROOM];
        buffer.extend_from_slice(message.as_bytes());
        let (accepted, message) = accept_message(&circumstances, envelope, buffer, None).unwrap();
        (accepted, String::from_utf8(message.head().to_vec()).unwrap())
    }

    #[test]
    fn decodes_list_unsubscribe_of_odoo() {
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
            let (accepted, out) = accept_text(&header(id), &["a@example.net"]);
            let expected = if repaired { plain(id) } else { header(id) };
            assert!(out.ends_with(&expected), "{out}");
            assert_eq!(
                (accepted.message.list_unsubscribe_rewritten, accepted.message.size),
                (repaired, out.len() as u64)
            );
        }
        let twice = header("1.2-openerp-3-x.y@vm").replacen(
            "Date: Mon, 14 Sep 2026 11:59:00 +0000",
            "List-Unsubscribe: <https://a.b/>",
            1,
        );
        let (accepted, out) = accept_text(&twice, &["a@example.net"]);
        assert!(out.ends_with(&twice) && !accepted.message.list_unsubscribe_rewritten, "{out}");
        let circumstances = MessageContext { cleanup: &HeaderCleanup::NONE, ..test_context() };
        let message = header("1.2-openerp-3-x.y@vm");
        let mut buffer = vec![0; HEADER_HEADROOM];
        buffer.extend_from_slice(message.as_bytes());
        let (accepted, kept) = accept_message(&circumstances, Envelope::default(), buffer, None).unwrap();
        assert!(kept.head().ends_with(message.as_bytes()) && !accepted.message.list_unsubscribe_rewritten);
    }

    #[test]
    fn adds_trace_headers_and_changes_nothing_else() {
        let message = "Message-Id: <1.2.3-openerp-2-crm.lead@vm>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nSubject: =?utf-8?q?B=C3=BC?=\r\n\r\nhi\r\n";
        let (accepted, out) = accept_text(message, &["a@example.net"]);
        assert_eq!(
            out.strip_suffix(message).unwrap(),
            "Received: from [127.0.0.1] ([127.0.0.1])\r\n\tby relay.example.com with ESMTPSA id \
             01K54Z8Q3V7N5X9B2C6D8F0GHJ for <a@example.net>;\r\n\tMon, 14 Sep 2026 12:00:00 +0000\r\n\
             X-Mailtrail-Id: 01K54Z8Q3V7N5X9B2C6D8F0GHJ\r\n"
        );
        assert_eq!(accepted.message.subject, "Bü");
        assert_eq!(accepted.message.odoo_records, [OdooRecord::parse("crm.lead,2").unwrap()]);
        assert_eq!(accepted.message.size, out.len() as u64);
    }

    #[test]
    fn adds_missing_message_id_and_date() {
        let (send, out) = accept_text("hello\r\n", &["a@example.net", "b@example.net"]);
        assert!(out.contains("\r\nMessage-ID: <01K54Z8Q3V7N5X9B2C6D8F0GHJ@relay.example.com>\r\n"));
        assert!(out.ends_with("\r\nDate: Mon, 14 Sep 2026 12:00:00 +0000\r\n\r\nhello\r\n"));
        assert!(!out.contains(" for <") && send.message.message_id.is_some());
    }

    #[test]
    fn strips_provider_headers_and_own_id_header() {
        let message = "X-Mailgun-Archive-To: http://evil.example\r\nX-Mailtrail-Id: 1\r\nX-Mailgun-Variables: {\"a\":1}\r\n\
                       Message-ID: <a@b>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\n";
        let (_, out) = accept_text(message, &["a@example.net"]);
        assert!(
            out.ends_with("GHJ\r\nX-Mailgun-Variables: {\"a\":1}\r\nMessage-ID: <a@b>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\n"),
            "{out}"
        );
    }

    #[test]
    fn adds_missing_from_of_envelope_sender() {
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
            let buffer = [&[0; HEADER_HEADROOM], header.as_bytes(), b"\r\nhi\r\n"].concat();
            let (_, message) = accept_message(&test_context(), envelope, buffer, None).unwrap();
            let text = String::from_utf8(message.head().to_vec()).unwrap();
            assert_eq!(text.contains("\r\nFrom: <a@example.com>\r\n"), added, "{text}");
        }
    }

    #[test]
    fn header_section_stays_valid_after_removals() {
        let message = "X-Mailtrail-Id: 1\r\nno field\r\nSubject: a\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nMessage-ID: <a@b>\r\n\r\nb\r\n";
        let (accepted, out) = accept_text(message, &["a@example.net"]);
        assert_eq!(accepted.message.subject, "a");
        assert!(
            out.ends_with("GHJ\r\nno field\r\nSubject: a\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\nMessage-ID: <a@b>\r\n\r\nb\r\n"),
            "{out}"
        );
    }

    #[test]
    fn rejects_loops_and_invalid_headers() {
        let received = |hops: u32| "Received: from a by b\r\n".repeat(hops as usize);
        for (header, expected) in [
            (received(MAX_RECEIVED_FIELDS), None),
            (received(MAX_RECEIVED_FIELDS + 1), Some(Reply::MailLoop)),
            ("A: b\r\n".repeat(MAX_HEADER_FIELDS as usize), None),
            (
                "A: b\r\n".repeat(MAX_HEADER_FIELDS as usize + 1),
                Some(Reply::BadMessage("The header has too many fields")),
            ),
            ("A: \0\r\n".into(), Some(Reply::BadMessage("The header holds a NUL character"))),
        ] {
            let message = format!("{header}\r\nbody \0 {}", received(60));
            let refused = check_headers(&HeaderSection::parse(message.as_bytes())).err();
            assert_eq!(refused, expected, "{}", &header[..30.min(header.len())]);
        }
    }

    #[test]
    fn rejects_from_outside_allowed_senders() {
        let account = Account {
            name: "odoo".into(),
            client_label: "odoo".into(),
            sender_patterns: vec!["*@example.com".into()],
            allowed_request_headers: Vec::new(),
            header_cleanup: HeaderCleanup::default(),
        };
        let circumstances = MessageContext { account: Some(&account), ..test_context() };
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
            let mut buffer = vec![0; HEADER_HEADROOM];
            buffer.extend_from_slice(format!("{from}\r\nhi\r\n").as_bytes());
            wrong.extend(
                (check_author(&circumstances, &buffer[HEADER_HEADROOM..]).is_ok() != fine).then_some(from),
            );
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn prepends_lines_longer_than_headroom() {
        let recipient = format!("{}@{}.example", "a".repeat(64), "b".repeat(240));
        let line = HeaderLine::new("X-Long", &"c".repeat(HEADER_HEADROOM));
        let mut buffer = vec![0; HEADER_HEADROOM];
        buffer.extend_from_slice(b"A: b\r\n\r\n");
        let message = prepend_lines(&[line], false, buffer);
        assert!(message.ends_with(b"c\r\nA: b\r\n\r\n") && message.starts_with(b"X-Long: c"));
        assert!(accept_text("A: b\r\n\r\n", &[&recipient]).1.contains(&recipient));
    }
}
