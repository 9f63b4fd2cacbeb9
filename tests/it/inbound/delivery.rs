//! Inbound mail: over HTTP to a whole relay, and on to its target.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mail_parser::{MessageParser, MimeHeaders};
use mailtrail_mail::{Secret, Timestamp};
use mailtrail_net::WebhookSigner;
use mailtrail_relay::admin::InboundFilter;
use mailtrail_trail::provider::mailgun;
use mailtrail_trail::{InboundOutcome, InboundState, InboundSummary, InboundTransition};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::log_capture::LogCapture;
use testkit::mock_http::{HttpAction, HttpRequest};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use testkit::webhook_harness::{WebhookHarness, is_full_disk_child, wait_until};
use testkit::{fake_odoo, mock_http, smtp_sink, webhook_harness};
use tokio::io::AsyncWriteExt;
use tracing::Level;

#[tokio::test]
async fn delivers_raw_mail_unchanged_over_smtp_and_lmtp() {
    for (deliver, hello) in [("smtp", "EHLO"), ("lmtp", "LHLO")] {
        let sink = SmtpSink::start().await;
        let harness = start_relay(&smtp_target(deliver, &sink)).await;
        assert_eq!(
            harness.post_with("inbound/up/mime", FORM_HEADERS, read_fixture("route_forward_mime.form")).await,
            200
        );
        let mail = sink.wait_for_count(1).await.remove(0);
        assert_eq!((&*mail.sender, &*mail.hello), ("ada@example.net", hello));
        assert_eq!(mail.recipients, [REPLY_ADDRESS]);
        assert_eq!(mail.message, with_delivered_to(&raw_mail()));
        wait_for_state(&harness, InboundState::Delivered).await;
        let log = harness.daemon.store().log_in_segment(1).unwrap();
        let words: Vec<_> = log.iter().map(|entry| entry.event.kind.as_str()).collect();
        assert_eq!(words, ["inbound", "inbound-delivered"]);
        let text = log[0].event.diagnostic.text.as_deref().unwrap();
        assert!(text.contains("<ada@example.net> to <reply+S00042@mg.example.com>"), "{text}");
        harness.daemon.stop().await;
        assert_eq!(sink.count(), 1);
    }
}

#[tokio::test]
async fn delivers_raw_mail_unchanged_over_http() {
    let endpoint = mock_http::MockHttpServer::start(|_, _| HttpAction::Respond(204, String::new())).await;
    let harness = start_relay(&http_target(&endpoint)).await;
    assert_eq!(
        harness.post_with("inbound/up/mime", FORM_HEADERS, read_fixture("route_forward_mime.form")).await,
        200
    );
    wait_until("the mail", || endpoint.count() == 1).await;
    let request = endpoint.requests().remove(0);
    assert_eq!(request.body, with_delivered_to(&raw_mail()));
    assert_eq!(request.header("content-type"), Some("message/rfc822"));
    assert_eq!(request.header("x-mailtrail-recipient"), Some(REPLY_ADDRESS));
    assert_eq!(request.header("x-mailtrail-sender"), Some("ada@example.net"));
    let [id, at] = ["webhook-id", "webhook-timestamp"].map(|name| request.header(name).unwrap());
    let mut signing = WebhookSigner::new(&[Secret::new("s")], id, at);
    signing.update(&request.body);
    assert_eq!(request.header("webhook-signature"), Some(&*signing.finish()));
    harness.daemon.stop().await;
}

#[tokio::test]
async fn delivers_raw_mail_unchanged_to_odoo() {
    let odoo = FakeOdooGateway::start(|_| xmlrpc_value("<int>23</int>")).await;
    let harness = start_relay(&odoo.target_config()).await;
    assert_eq!(
        harness.post_with("inbound/up/mime", FORM_HEADERS, read_fixture("route_forward_mime.form")).await,
        200
    );
    let mail = wait_for_state(&harness, InboundState::Delivered).await;
    assert_eq!((&*mail.last_target, &*mail.diagnostic), ("odoo", "record 23"));
    assert_eq!(odoo.received_messages(), [with_delivered_to(&raw_mail())]);
    // In between it looks for the server action, and finds none.
    let [login, _, call] = &odoo.server.requests()[..] else { panic!("{:?}", odoo.server.requests()) };
    assert_eq!(login.line, "POST /jsonrpc HTTP/1.1");
    assert_eq!(call.line, "POST /xmlrpc/2/object HTTP/1.1");
    let text = String::from_utf8_lossy(&call.body);
    for part in
        ["<methodName>execute_kw<", "<string>prod<", "<int>7<", "<string>api-key<", "<string>mail.thread<"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    harness.daemon.stop().await;
}

#[tokio::test]
async fn assembles_mail_from_parsed_form() {
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    assert_eq!(
        harness.post_with("inbound/up", FORM_HEADERS, read_fixture("route_forward_parsed.form")).await,
        200
    );
    let multipart = read_fixture("route_forward_parsed_attachments.multipart");
    // The same mail to the same address a minute later, as another one.
    let multipart = replace_bytes(&multipart, b"reply-1@mail", b"reply-2@mail");
    assert_eq!(harness.post_with("inbound/up", MULTIPART_HEADERS, multipart).await, 200);
    let mails = sink.wait_for_count(2).await;
    let first = MessageParser::default().parse(&mails[0].message).unwrap();
    assert_eq!(first.subject(), Some("Re: Quotation S00042"));
    assert_eq!(first.message_id(), Some("reply-1@mail.example.net"));
    assert_eq!(first.in_reply_to().as_text(), Some("1789387199.4711.mt0001@mg.example.com"));
    assert_eq!(first.header_raw("X-Mailgun-Spf").map(str::trim), Some("Pass"));
    assert_eq!(first.body_text(0).unwrap(), "Yes please.\r\n\r\n> Quotation S00042\r\n-- \r\nAda");
    assert_eq!(first.body_html(0).unwrap(), "<p>Yes please.</p>");
    let second = MessageParser::default().parse(&mails[1].message).unwrap();
    assert_eq!(second.body_text(0).unwrap(), "see attachment");
    let file = second.attachments().next().unwrap();
    assert_eq!(file.contents(), b"%PDF-1.4\n\0\xff binary, not base64\n%%EOF");
    assert_eq!((file.attachment_name(), file.content_id()), (Some("po.pdf"), Some("po@example.net")));
    harness.daemon.stop().await;
}

#[tokio::test]
async fn rejects_unsigned_mail_and_recognizes_duplicates() {
    let sink = SmtpSink::start().await;
    let harness = start_relay(&(smtp_target("smtp", &sink) + "[inbound]\nsize = \"64KiB\"\n")).await;
    let mail = "From: a@b\r\nMessage-ID: <1@b>\r\n\r\nhi\r\n";
    let fields = |token: &str, more: &[(&str, &str)]| {
        signed_form("test-webhook-signing-key", NOW_SECONDS, token, more)
    };
    let good = [("recipient", REPLY_ADDRESS), ("sender", "a@b"), ("body-mime", mail)];
    let large = "x".repeat(70_000);
    for (path, body, expected) in [
        ("up/mime", signed_form("another key", NOW_SECONDS, "t", &good), 406),
        ("up/mime", signed_form(SIGNING_KEY, NOW_SECONDS - 90_000, "t", &good), 406),
        ("up/mime", signed_form(SIGNING_KEY, NOW_SECONDS + 90_000, "t", &good), 503),
        ("up/mime", encode_form(&good), 406),
        ("up/mime", fields("t", &[("recipient", REPLY_ADDRESS)]), 406),
        ("up/mime", fields("t", &[("body-mime", mail)]), 406),
        ("up/mime", "{}".into(), 406),
        ("up/mime", fields("t", &[("recipient", REPLY_ADDRESS), ("body-mime", &large)]), 413),
        ("other/mime", fields("t", &good), 404),
        ("up/mime/more", fields("t", &good), 404),
        ("up/mime", fields("t", &good), 200),
        // The same request again; then its token with another body; then the mail with another token.
        ("up/mime", fields("t", &good), 200),
        ("up", fields("t", &[("recipient", REPLY_ADDRESS), ("sender", "c@b"), ("body-mime", mail)]), 406),
        ("up", fields("t2", &good), 200),
    ] {
        let answer = harness.post_with(&format!("inbound/{path}"), FORM_HEADERS, body.into_bytes()).await;
        assert_eq!(answer, expected, "{path}");
    }
    let mails = harness.daemon.store().find_inbound(10, |_| true).unwrap();
    let legs: Vec<_> = mails.iter().map(|mail| mail.state).collect();
    assert_eq!(legs[..1], [InboundState::Duplicate], "{mails:?}");
    assert_eq!(mails.len(), 2);
    sink.wait_for_count(1).await;
    harness.daemon.stop().await;
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn requests_retry_when_mail_cannot_be_stored() {
    // Without a target.
    let nowhere = start_relay("").await;
    assert_eq!(
        nowhere.post_with("inbound/up/mime", FORM_HEADERS, read_fixture("route_forward_mime.form")).await,
        503
    );
    nowhere.daemon.stop().await;
    // While as many come in as may.
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    let address = harness.daemon.http_address().unwrap();
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = "POST /inbound/up HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nrecipient=";
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let form = || read_fixture("route_forward_mime.form");
    let mut answer = 200;
    for number in 0.. {
        assert!(number < 1000, "nobody was turned away");
        // Until all of them have begun.
        answer = harness.post_with("inbound/up/mime", FORM_HEADERS, form()).await;
        if answer != 200 {
            break;
        }
    }
    assert_eq!(answer, 503);
    drop(open);
    let mut answers = Vec::new();
    while answers.last() != Some(&200) {
        assert!(answers.len() < 1000, "{answers:?}");
        answers.push(harness.post_with("inbound/up/mime", FORM_HEADERS, form()).await);
    }
    harness.daemon.stop().await;
}

#[tokio::test]
async fn full_disk_requests_retry_and_stores_nothing() {
    if !is_full_disk_child(module_path!(), "full_disk_requests_retry_and_stores_nothing") {
        return;
    }
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    let mail = format!("Message-ID: <1@b>\r\n\r\n{}", "0123456789abcde\r\n".repeat(500_000));
    let body =
        signed_form(SIGNING_KEY, NOW_SECONDS, "t", &[("recipient", REPLY_ADDRESS), ("body-mime", &mail)]);
    assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 503);
    assert_eq!(harness.daemon.store().find_inbound(10, |_| true).unwrap(), []);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn fetches_stored_mail_before_answering() {
    let mail = String::from_utf8(raw_mail()).unwrap();
    let api = mock_http::MockHttpServer::start(move |number, _| match number {
        1 => HttpAction::Respond(500, "{}".into()),
        _ => HttpAction::Respond(200, json!({ "body-mime": mail, "Subject": "x" }).to_string()),
    })
    .await;
    let foreign_client = mock_http::MockHttpServer::start(|_, _| {
        HttpAction::Respond(200, json!({ "body-mime": "x" }).to_string())
    })
    .await;
    let sink = SmtpSink::start().await;
    let account = format!(
        "domain = \"mg.example.com\"\napi_base_url = \"http://{}\"\napi_key = \"the-api-key\"\n\
         [upstream.reconcile]\nenabled = false\n",
        api.address
    );
    let harness = start_relay_with_provider("mailgun", &account, &smtp_target("smtp", &sink)).await;
    let notice = |token: &str, host: std::net::SocketAddr| {
        let url = format!("http://{host}/v3/domains/mg.example.com/messages/AbC==");
        let more = [
            ("recipient", REPLY_ADDRESS),
            ("sender", "ada@example.net"),
            ("message-headers", "[[\"Subject\", \"x\"]]"),
            ("body-plain", "only a part of it"),
            ("attachments", "[]"),
            ("message-url", &url),
        ];
        signed_form(SIGNING_KEY, NOW_SECONDS, token, &more).into_bytes()
    };
    assert_eq!(harness.post_with("inbound/up", FORM_HEADERS, notice("t", foreign_client.address)).await, 503);
    assert_eq!(harness.post_with("inbound/up", FORM_HEADERS, notice("t", api.address)).await, 503);
    assert_eq!(harness.post_with("inbound/up", FORM_HEADERS, notice("t", api.address)).await, 200);
    assert_eq!(sink.wait_for_count(1).await[0].message, with_delivered_to(&raw_mail()));
    let asked = api.requests();
    assert_eq!(asked[1].line, "GET /v3/domains/mg.example.com/messages/AbC== HTTP/1.1");
    assert_eq!(asked[1].header("accept"), Some("message/rfc2822"));
    let key = format!("Basic {}", BASE64_STANDARD.encode("api:the-api-key"));
    assert_eq!(asked[1].header("authorization"), Some(&*key));
    assert_eq!(foreign_client.count(), 0, "the key goes to nobody else");
    harness.daemon.stop().await;
}

#[tokio::test]
async fn assembles_brevo_mail_with_attachments() {
    let api = mock_http::MockHttpServer::start(|_, request| match request.line.split(' ').nth(1) {
        Some("/v3/inbound/attachments/tok%2Fen") => HttpAction::Respond(200, "%PDF-1.4".into()),
        _ => HttpAction::Respond(404, "{}".into()),
    })
    .await;
    let sink = SmtpSink::start().await;
    let harness = start_relay_with_provider("brevo", &brevo_account(&api), &smtp_target("smtp", &sink)).await;
    let proof = [("authorization", "Bearer 0123456789abcdef0123"), ("content-type", "application/json")];
    let item = json!({
        "Uuid": ["8d79f2b1-20ae-4939-8d0b-d2517331a9e5"],
        "Headers": {
            "Received": ["by one", "by two"],
            "Delivered-To": "<reply+S00042@mg.example.com>",
            "Return-Path": "<ada@example.net>",
            "From": "Jörg Ä <ada@example.net>",
            "To": "reply+S00042@mg.example.com",
            "Message-ID": "<3@example.net>",
            "Subject": "Bestellung ✓",
            "Content-Type": "multipart/mixed; boundary=old",
        },
        "RawTextBody": "Grüße\n",
        "RawHtmlBody": null,
        "Attachments": [{ "Name": "po.pdf", "ContentType": "application/pdf", "ContentLength": 8, "ContentID": "",
                          "DownloadToken": "tok/en" }],
    });
    // An item of invalid JSON damages no other, nor do a byte order mark and half a character.
    let item = item.to_string().replace("\"RawHtmlBody\"", "\"Odd\":\"\\ud83d \u{1}\",\"RawHtmlBody\"");
    let body =
        format!("\u{feff}{{\"items\": [{item}, {{\"Uuid\":[\"x\"]}}, {{\"Uuid\" \"y\"}}]}}").into_bytes();
    assert_eq!(harness.post_with("inbound/up", &proof[1..], body.clone()).await, 401);
    assert_eq!(harness.post_with("inbound/up", &proof, body).await, 200);
    assert_eq!(harness.post_with("inbound/up", &proof, b"{\"event\": \"delivered\"}".to_vec()).await, 200);
    let mail = sink.wait_for_count(1).await.remove(0);
    assert_eq!((&*mail.sender, &mail.recipients[..]), ("ada@example.net", &[REPLY_ADDRESS.to_owned()][..]));
    let message = MessageParser::default().parse(&mail.message).unwrap();
    assert_eq!(message.subject(), Some("Bestellung ✓"));
    assert_eq!(message.from().unwrap().first().unwrap().name(), Some("Jörg Ä"));
    assert_eq!(message.header_values("Received").count(), 2);
    assert_eq!(message.body_text(0).unwrap().trim(), "Grüße");
    assert_eq!(message.attachments().next().unwrap().contents(), b"%PDF-1.4");
    // Undecodable items are stored.
    assert_eq!(harness.daemon.store().count_unmatched().unwrap(), (0, 3));
    assert!(harness.journal_contains(b"{\"Uuid\":[\"x\"]}") && harness.journal_contains(b"{\"Uuid\" \"y\"}"));
    harness.daemon.stop().await;
}

/// A part that is permanently missing does not hold up the rest of the mail; a temporary failure leads to a retry.
#[tokio::test]
async fn notes_attachments_that_brevo_does_not_return() {
    let busy = AtomicUsize::new(0);
    let api =
        mock_http::MockHttpServer::start(move |_, request| match request.line.split(' ').nth(1).unwrap() {
            "/v3/inbound/attachments/good" => HttpAction::Respond(200, "%PDF-1.4".into()),
            "/v3/inbound/attachments/endless" => HttpAction::Respond(200, "x".repeat(70_000)),
            "/v3/inbound/attachments/busy" if busy.fetch_add(1, Ordering::SeqCst) == 0 => {
                HttpAction::Respond(500, "{}".into())
            }
            "/v3/inbound/attachments/busy" => HttpAction::Respond(200, "late".into()),
            "/v3/inbound/attachments/old" => HttpAction::Respond(410, "{}".into()),
            "/v3/inbound/attachments/bad" => {
                HttpAction::Respond(400, "{\"message\":\"invalid token\"}".into())
            }
            _ => HttpAction::Respond(404, "{}".into()),
        })
        .await;
    let sink = SmtpSink::start().await;
    let sections = smtp_target("smtp", &sink) + "[inbound]\nsize = \"64KiB\"\n";
    let harness = start_relay_with_provider("brevo", &brevo_account(&api), &sections).await;
    let proof = [("authorization", "Bearer 0123456789abcdef0123"), ("content-type", "application/json")];
    let mail = |number: u32, files: Value| {
        let headers = json!({ "To": REPLY_ADDRESS, "Message-ID": format!("<{number}@example.net>") });
        json!({ "items": [{ "Headers": headers, "RawTextBody": "hi", "Attachments": files }] }).to_string()
    };
    let kept = [
        json!({ "Name": "po.pdf", "ContentType": "application/pdf", "DownloadToken": "good" }),
        json!({ "Name": null, "DownloadToken": "good" }),
    ];
    let lost = [
        json!({ "Name": "gone.pdf", "DownloadToken": "gone" }),
        json!({ "Name": "old.pdf", "DownloadToken": "old" }),
        json!({ "Name": "bad.pdf", "DownloadToken": "bad" }),
        json!({ "Name": "tokenless.pdf" }),
        json!({ "Name": "null.pdf", "DownloadToken": null }),
        json!({ "Name": "large.pdf", "ContentLength": 65_537, "DownloadToken": "good" }),
        json!({ "Name": "endless.pdf", "DownloadToken": "endless" }),
        json!("no file"),
    ];
    let files = [&kept[..1], &lost, &kept[1..]].concat();
    assert_eq!(harness.post_with("inbound/up", &proof, mail(1, json!(files)).into_bytes()).await, 200);
    let busy = json!([{ "Name": "busy.txt", "DownloadToken": "busy" }]);
    for expected in [429, 200] {
        let answer = harness.post_with("inbound/up", &proof, mail(2, busy.clone()).into_bytes()).await;
        assert_eq!(answer, expected);
    }
    let mails = sink.wait_for_count(2).await;
    let count = |mail: &smtp_sink::ReceivedMessage| {
        MessageParser::default().parse(&mail.message).unwrap().attachments().count()
    };
    assert_eq!(mails.iter().map(count).collect::<Vec<_>>(), [kept.len(), 1]);
    assert_eq!(missing_attachment_counts(&harness), [0, lost.len() as u64]);
    assert_eq!(harness.daemon.store().count_unmatched().unwrap(), (0, 0));
    harness.daemon.stop().await;
}

/// Any header of an attachment: names in other charsets, in the forms of RFC 2231 and RFC 5987, in encoded words, or
/// none.
#[tokio::test]
async fn treats_attachment_parts_as_files() {
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    let files: [(&[u8], Option<&str>); 14] = [
        (b"form-data; name=\"attachment-1\"", None),
        (b"form-data; name=\"attachment-2\"; filename=\"Gr\xf6\xdfe.pdf\"", Some("Größe.pdf")),
        (b"form-data; name=\"attachment-3\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.txt", Some("Größe.txt")),
        (
            b"form-data; name=\"attachment-4\"; filename*0=\"long-\"; filename*1=\"name.txt\"",
            Some("long-name.txt"),
        ),
        (b"form-data; name=\"attachment-5\"; filename=\"\"", None),
        (b"form-data; name=attachment-6; filename=plain.txt", Some("plain.txt")),
        (b"Form-Data; Name=\"attachment-7\"; FileName=\"upper.txt\"", Some("upper.txt")),
        (b"form-data; name=\"attachment-8\"; filename*=iso-8859-1'de'%E4.txt", Some("ä.txt")),
        (b"form-data; name=\"attachment-9\"; filename=\"=?utf-8?B?w6QudHh0?=\"", Some("ä.txt")),
        (b"form-data; filename=\"a;b \\\"c\\\".txt\"; name=\"attachment-10\"", Some("a;b \"c\".txt")),
        (
            b"form-data; name=\"attachment-11\"; filename=\"x.txt\"; filename*=utf-8''%C3%BC.txt",
            Some("ü.txt"),
        ),
        (b"attachment; name=\"attachment-12\"; filename=\"Gr\xc3\xb6\xc3\x9fe.txt\"", Some("Größe.txt")),
        (b"form-data; name=\"attachment-13\"; filename=\"\x805.txt\"", Some("€5.txt")),
        (b"form-data; name=\"invoice\"; filename=\"invoice.xml\"", Some("invoice.xml")),
    ];
    let parts: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(number, (disposition, _))| {
            let content_type: &[u8] = if number == 0 { b"" } else { b"\r\nContent-Type: application/x-test" };
            (*disposition, content_type, format!("file {number} \0\r\n--x\r\n").into_bytes())
        })
        .collect();
    let body = multipart_form("1", Some("13"), &parts);
    assert_eq!(harness.post_with("inbound/up", PARTS_HEADERS, body).await, 200);
    let mail = sink.wait_for_count(1).await.remove(0);
    let message = MessageParser::default().parse(&mail.message).unwrap();
    assert_eq!(message.attachments().count(), files.len());
    for (number, (file, (disposition, name))) in message.attachments().zip(&files).enumerate() {
        let disposition = String::from_utf8_lossy(disposition);
        assert_eq!(file.contents(), &*parts[number].2, "{disposition}");
        assert_eq!(file.attachment_name(), *name, "{disposition}");
    }
    assert_eq!(missing_attachment_counts(&harness), [0]);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn notes_missing_attachments() {
    let log = LogCapture::default();
    let _logging = log.install_at(Level::TRACE);
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    let file: &[u8] = b"form-data; name=\"attachment-1\"; filename=\"a.txt\"";
    let twice: &[u8] = b"form-data; name=\"attachment-1\"; filename=\"b.txt\"";
    let part = |disposition| (disposition, &b""[..], b"x".to_vec());
    for (token, count, parts, missing) in [
        ("1", Some("3"), vec![part(file)], 2),
        ("2", Some("1"), vec![], 1),
        ("3", Some("2"), vec![part(file), part(twice)], 1),
        ("4", Some("0"), vec![part(file)], 0),
        ("5", Some("many"), vec![part(file)], 0),
        ("6", None, vec![part(file)], 0),
        ("7", Some("4294967296"), vec![part(file)], u32::MAX),
    ] {
        let body = multipart_form(token, count, &parts);
        assert_eq!(harness.post_with("inbound/up", PARTS_HEADERS, body).await, 200, "{token}");
        assert_eq!(missing_attachment_counts(&harness)[0], u64::from(missing), "{token}");
    }
    sink.wait_for_count(7).await;
    let entries = harness.daemon.store().log_in_segment(1).unwrap();
    let printed = entries.iter().find(|entry| entry.event.kind.as_str() == "inbound").unwrap();
    let text = printed.event.diagnostic.text.as_deref().unwrap();
    assert!(text.ends_with(": 2 files are missing"), "{text}");
    assert_eq!(log.lines_with(&["WARN", "files of a mail from outside are missing"]).len(), 4);
    let harness = harness.rebuild_ledger().await;
    assert_eq!(missing_attachment_counts(&harness)[6], 2, "it is kept");
    harness.daemon.stop().await;
}

#[tokio::test]
async fn holds_looping_mail_without_dropping_it() {
    let log = LogCapture::default();
    let _logging = log.install_at(Level::TRACE);
    let sink = SmtpSink::start().await;
    let target = smtp_target("smtp", &sink)
        .replace("[[inbound.target]]\n", "[[inbound.target]]\nrecipients = [\"*@mg.example.com\"]\n");
    let harness = start_relay(&target).await;
    let report = put_own_dsn(&harness).await;
    let mails = [
        ("out of office", REPLY_ADDRESS, "Auto-Submitted: auto-replied\r\nSubject: away"),
        ("circle", REPLY_ADDRESS, &"Received: by x\r\n".repeat(51)),
        ("delivered before", REPLY_ADDRESS, "Delivered-To: reply+s00042@mg.example.com"),
        (
            "a report of our own",
            REPLY_ADDRESS,
            &format!("X-Mailtrail-Id: {report}\r\nContent-Type: multipart/report"),
        ),
        ("to nobody", "x@elsewhere.example", "Subject: lost"),
        (
            "a bounce",
            REPLY_ADDRESS,
            "Auto-Submitted: auto-replied\r\nContent-Type: multipart/report; boundary=b",
        ),
        ("a person", REPLY_ADDRESS, "Precedence: list\r\nSubject: hello"),
    ];
    for (number, (what, recipient, header)) in mails.iter().enumerate() {
        let mail = format!("{}\r\nMessage-ID: <{number}@b>\r\n\r\n{what}\r\n", header.trim_end());
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            &number.to_string(),
            &[("recipient", recipient), ("body-mime", &mail)],
        );
        assert_eq!(
            harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await,
            200,
            "{what}"
        );
    }
    sink.wait_for_count(2).await;
    let store = harness.daemon.store();
    let dead = || store.find_inbound(10, |mail| mail.state == InboundState::DeadLetter).unwrap();
    wait_until("the dead letters", || dead().len() == 5).await;
    let reasons: Vec<_> = dead().into_iter().rev().map(|mail| mail.diagnostic).collect();
    for (reason, part) in reasons.iter().zip([
        "auto_replies",
        "51 servers",
        "was delivered to reply+S00042@mg.example.com before",
        "a report of our own",
        "no [[inbound.target]] takes mail to x@elsewhere.example",
    ]) {
        assert!(reason.contains(part), "{reason:?} lacks {part:?}");
    }
    assert!(log.lines_with(&["kept back", "out of office"]).is_empty(), "no mail stands in the log");
    // None is lost: each can be delivered after all.
    let id = dead().last().unwrap().received.id;
    let outcome = InboundOutcome::Released { operator: "test".into(), reason: String::new() };
    store
        .record_inbound(InboundTransition { id, at: Timestamp::from_secs(NOW_SECONDS), outcome })
        .await
        .unwrap();
    let mails = sink.wait_for_count(3).await;
    assert!(mails[2].message.ends_with(b"out of office\r\n"));
    harness.daemon.stop().await;
}

#[tokio::test]
async fn rejected_mail_becomes_dead_letter_and_others_are_delivered() {
    let options = SinkOptions {
        rejections: [(REPLY_ADDRESS.to_owned(), "550 5.1.1 no such user".to_owned())].into(),
        ..SinkOptions::default()
    };
    let sink = SmtpSink::with_options(options).await;
    let harness = start_relay(&smtp_target("lmtp", &sink)).await;
    for (token, recipient) in [("1", REPLY_ADDRESS), ("2", "b@mg.example.com, c@mg.example.com")] {
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            token,
            &[("recipient", recipient), ("body-mime", "Message-ID: <1@b>\r\n\r\nhi\r\n")],
        );
        assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 200);
    }
    let mails = sink.wait_for_count(2).await;
    assert_eq!([&mails[0].recipients, &mails[1].recipients], [&["b@mg.example.com"], &["c@mg.example.com"]]);
    let dead = wait_for_state(&harness, InboundState::DeadLetter).await;
    assert_eq!((&*dead.last_target, &*dead.diagnostic), ("lmtp", "550 5.1.1 no such user"));
    harness.daemon.stop().await;
}

#[tokio::test]
async fn classifies_odoo_faults() {
    let busy = AtomicUsize::new(0);
    let odoo = FakeOdooGateway::start(move |message| {
        let text = String::from_utf8_lossy(message).into_owned();
        match () {
            () if text.contains("routeless") => {
                xmlrpc_fault(1, "Traceback\nValueError: No possible route found for it")
            }
            () if text.contains("handled") => {
                xmlrpc_fault(1, "TypeError: cannot marshal None unless allow_none is enabled")
            }
            () if busy.fetch_add(1, Ordering::SeqCst) == 0 => {
                xmlrpc_fault(1, "psycopg2.OperationalError: could not serialize access")
            }
            () => xmlrpc_value("<boolean>0</boolean>"),
        }
    })
    .await;
    let harness = start_relay(&odoo.target_config()).await;
    for (number, what) in ["routeless", "handled", "busy"].iter().enumerate() {
        let mail = format!("From: a@b\r\n\r\n{what}\r\n");
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            &number.to_string(),
            &[("recipient", REPLY_ADDRESS), ("body-mime", &mail)],
        );
        assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 200);
    }
    let store = harness.daemon.store();
    let all = || store.find_inbound(10, |mail| mail.state != InboundState::Waiting).unwrap();
    wait_until("all three", || all().len() == 3).await;
    let ends: Vec<_> = all().into_iter().rev().map(|mail| (mail.state, mail.diagnostic)).collect();
    assert_eq!(
        ends[0],
        (
            InboundState::DeadLetter,
            "Odoo refused mail.thread.message_process: ValueError: No possible route found for it".to_owned()
        )
    );
    assert_eq!((ends[1].0, ends[2].0), (InboundState::Delivered, InboundState::Delivered));
    // A mail without a Message-ID gets a stable one.
    let named: Vec<_> =
        odoo.received_messages().into_iter().filter(|mail| mail.ends_with(b"busy\r\n")).collect();
    assert!(named.len() == 2 && named.iter().all(|mail| *mail == named[0]));
    assert!(
        String::from_utf8_lossy(&named[0])
            .starts_with(&format!("Delivered-To: {REPLY_ADDRESS}\r\nMessage-ID: <"))
    );
    harness.daemon.stop().await;
}

#[tokio::test]
async fn defers_mail_denied_by_odoo_with_full_diagnostic() {
    let log = LogCapture::default();
    let _logging = log.install_at(Level::TRACE);
    let odoo = FakeOdooGateway::start(|message| {
        let text = String::from_utf8_lossy(message).into_owned();
        let words = "You are not allowed to modify 'Aliases' (mail.alias) records.\n\nThis operation is allowed for the \
                     following groups:\n\t- Administration/Settings\n\nContact your administrator to request access if \
                     necessary.";
        if text.contains("denied") { xmlrpc_fault(4, words) } else { xmlrpc_value("<int>23</int>") }
    })
    .await;
    let harness = start_relay(&odoo.target_config()).await;
    for (number, what) in ["denied", "first", "denied too", "second"].iter().enumerate() {
        let mail = format!("From: a@b\r\nMessage-ID: <{number}@b>\r\n\r\n{what}\r\n");
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            &number.to_string(),
            &[("recipient", REPLY_ADDRESS), ("body-mime", &mail)],
        );
        assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 200);
    }
    let store = harness.daemon.store();
    let delivered = || store.find_inbound(10, |mail| mail.state == InboundState::Delivered).unwrap();
    wait_until("the mails behind it", || delivered().len() == 2).await;
    let waiting = store.find_inbound(10, |mail| mail.state == InboundState::Waiting).unwrap();
    assert_eq!(waiting.len(), 2, "{waiting:?}");
    for mail in waiting {
        assert!(
            mail.diagnostic.contains("You are not allowed to modify 'Aliases' (mail.alias) records."),
            "{}",
            mail.diagnostic
        );
        assert!(mail.diagnostic.contains("Contact your administrator"), "{}", mail.diagnostic);
        assert!(
            mail.diagnostic.ends_with("`mailtrail setup odoo --inbound --user mail` gives it the rights"),
            "{}",
            mail.diagnostic
        );
    }
    assert!(log.lines_with(&["takes no mail from outside"]).is_empty());
    wait_until("the alarm", || !log.lines_with(&["alarm=\"inbound\"", "a right is missing"]).is_empty())
        .await;
    harness.daemon.stop().await;
}

#[tokio::test]
async fn delivers_through_odoo_action_made_by_setup() {
    let odoo = fake_odoo::FakeOdoo::start();
    odoo.create("mail.alias", json!({ "address": REPLY_ADDRESS }));
    let target = format!(
        "[[inbound.target]]\ndeliver = \"odoo\"\nurl = \"{}\"\ndatabase = \"prod\"\nusername = \"bot\"\napi_key = \"bot-key\"\n",
        odoo.url()
    );
    let set_up = |arguments: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mailtrail"))
            .args(["setup", "odoo", "--url", &odoo.url(), "--database", "prod"])
            .args(arguments)
            .env_remove("MAILTRAIL_CONFIG")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"admin-key\n").unwrap();
        assert!(child.wait().unwrap().success());
    };
    let post = async |harness: &WebhookHarness, number: usize| {
        let mail = format!("From: a@b\r\nMessage-ID: <{number}@b>\r\n\r\nGr\u{fc}\u{df}e {number}\r\n");
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            &number.to_string(),
            &[("recipient", REPLY_ADDRESS), ("body-mime", &mail)],
        );
        assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 200);
        mail
    };
    // Without the action, its own rights do not suffice.
    set_up(&["--user", "bot"]);
    let harness = start_relay(&target).await;
    post(&harness, 1).await;
    let store = harness.daemon.store();
    let words =
        || store.find_inbound(10, |mail| mail.state == InboundState::Waiting).unwrap()[0].diagnostic.clone();
    wait_until("the denial", || words().contains("--inbound")).await;
    assert!(words().contains("mail.alias"), "{}", words());
    // A set-up is enough: nothing is configured or started again.
    set_up(&["--inbound"]);
    let mail = post(&harness, 2).await;
    let delivered = || store.find_inbound(10, |mail| mail.state == InboundState::Delivered).unwrap();
    wait_until("the mail", || delivered().len() == 1).await;
    assert!(delivered()[0].diagnostic.starts_with("record "), "{}", delivered()[0].diagnostic);
    assert_eq!(odoo.record("mail.alias", 1)["alias_status"], "valid");
    let state = odoo.state();
    let last = state["gateway"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    assert_eq!(last, format!("Delivered-To: {REPLY_ADDRESS}\r\n{mail}"));
    // Another setup re-creates the action with another id.
    set_up(&["--remove"]);
    set_up(&["--user", "bot", "--inbound"]);
    post(&harness, 3).await;
    wait_until("the next mail", || delivered().len() == 2).await;
    harness.daemon.stop().await;
}

#[tokio::test]
async fn rebuild_keeps_delivered_state() {
    let sink = SmtpSink::start().await;
    let harness = start_relay(&smtp_target("smtp", &sink)).await;
    for (token, id) in [("1", 1), ("2", 1), ("3", 2)] {
        let mail = format!("Message-ID: <{id}@b>\r\n\r\nhi\r\n");
        let body = signed_form(
            SIGNING_KEY,
            NOW_SECONDS,
            token,
            &[("recipient", REPLY_ADDRESS), ("body-mime", &mail)],
        );
        assert_eq!(harness.post_with("inbound/up/mime", FORM_HEADERS, body.into_bytes()).await, 200);
    }
    let all = |harness: &WebhookHarness| harness.daemon.store().find_inbound(10, |_| true).unwrap();
    wait_until("both", || {
        all(&harness).iter().filter(|mail| mail.state == InboundState::Delivered).count() == 2
    })
    .await;
    let before = all(&harness);
    let harness = harness.rebuild_ledger().await;
    assert_eq!(all(&harness), before);
    assert_eq!(before.iter().filter(|mail| mail.state == InboundState::Duplicate).count(), 1);
    harness.daemon.stop().await;
    assert_eq!(sink.count(), 2);
}

/// A kill between the response and the delivery; then the operator inspects rejected mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_after_response_loses_no_mail() {
    let (port, mut process) = start_process("");
    process.start().await;
    for number in 0..20 {
        assert_eq!(
            post_mail(port, number, &format!("Subject: {number}\r\nMessage-ID: <{number}@b>\r\n\r\nhi\r\n"))
                .await,
            200
        );
    }
    process.kill();
    let sink = SmtpSink::start().await;
    process.write_configuration(&config_of(&process, port, sink.port(), ""));
    process.start().await;
    let mails = sink.wait_for_count(20).await;
    let order: Vec<_> = mails
        .iter()
        .map(|mail| testkit::header_value(&mail.message, "Subject").unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(order, expected);
    assert_eq!(post_mail(port, 20, "Auto-Submitted: auto-replied\r\nSubject: away\r\n\r\nhi\r\n").await, 200);
    let [dead] = &run_json_command(&process, &["--json", "inbound", "dead"]).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!((&dead["subject"], &dead["state"]), (&"away".into(), &"dead".into()));
    let id = dead["id"].as_str().unwrap();
    let shown = run_json_command(&process, &["--json", "inbound", "show", id]).await.remove(0);
    let message = BASE64_STANDARD.decode(shown["message_base64"].as_str().unwrap()).unwrap();
    assert!(message.ends_with(b"Subject: away\r\n\r\nhi\r\n"));
    let tried = run_json_command(&process, &["--json", "inbound", "replay", "ALL", "--dry-run"]).await;
    assert_eq!((&tried[0]["done"], sink.count()), (&true.into(), 20));
    run_json_command(&process, &["inbound", "replay", id, "--reason", "it is no answer of a machine"]).await;
    sink.wait_for_count(21).await;
    let log = run_json_command(&process, &["--json", "log", "--status", "inbound-released"]).await;
    let printed = log[0]["text"].as_str().unwrap();
    assert!(
        log.len() == 1 && printed.starts_with("uid ") && printed.ends_with(": it is no answer of a machine")
    );
    const LIST_DELIVERED: &[&str] = &["--json", "inbound", "list", "--state", "delivered"];
    while run_json_command(&process, LIST_DELIVERED).await.len() < 21 {
        tokio::task::yield_now().await;
    }
    assert!(process.terminate().await.success());
    // Past mail is readable while no daemon runs.
    assert_eq!(run_json_command(&process, LIST_DELIVERED).await.len(), 21);
    assert_eq!(sink.count(), 21);
}

/// With the real program, because the kernel records the peak of its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_mail_stays_within_memory_limit() {
    let (sink, (port, mut process)) = (SmtpSink::start().await, start_process(""));
    process.write_configuration(&config_of(&process, port, sink.port(), ""));
    process.start().await;
    let idle = process.peak_memory();
    let mail = |number: usize| {
        let line = format!("{number:04} {}\r\n", "x".repeat(70));
        format!("Message-ID: <{number}@b>\r\n\r\n{}", line.repeat((25 << 20) / line.len()))
    };
    let mails: Arc<Vec<_>> = Arc::new((0..4).map(mail).collect());
    let posts = (0..4).map(|number| {
        let mails = mails.clone();
        tokio::spawn(async move { post_mail(port, number, &mails[number]).await })
    });
    for answer in futures_util::future::join_all(posts).await {
        assert_eq!(answer.unwrap(), 200);
    }
    let mut arrived = sink.wait_for_count(4).await;
    arrived.sort_by(|one, other| one.message.cmp(&other.message));
    for (number, mail) in arrived.iter().enumerate() {
        assert!(mail.message == with_delivered_to(mails[number].as_bytes()), "{number}");
    }
    let grown = process.peak_memory() - idle;
    assert!(grown < 48 << 20, "it grew by {} MiB", grown >> 20);
    assert!(process.terminate().await.success());
}

/// A fake Odoo's mail gateway.
struct FakeOdooGateway {
    server: mock_http::MockHttpServer,
}

impl FakeOdooGateway {
    /// Starts an LMTP server; `script` returns the reply to each message.
    async fn start(script: impl Fn(&[u8]) -> String + Send + Sync + 'static) -> Self {
        let server = mock_http::MockHttpServer::start(move |_, request| {
            let answer = match xmlrpc_message(request) {
                Some(message) => script(&message),
                None => {
                    let call: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
                    let login = serde_json::json!(["prod", "mail", "api-key", {}]);
                    let uid = if call["params"]["args"] == login {
                        7.into()
                    } else {
                        serde_json::Value::from(false)
                    };
                    serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": uid }).to_string()
                }
            };
            HttpAction::Respond(200, answer)
        });
        Self { server: server.await }
    }

    fn target_config(&self) -> String {
        format!(
            "[[inbound.target]]\ndeliver = \"odoo\"\nurl = \"http://{}\"\ndatabase = \"prod\"\nusername = \"mail\"\n\
             api_key = \"api-key\"\n",
            self.server.address
        )
    }

    fn received_messages(&self) -> Vec<Vec<u8>> {
        self.server.requests().iter().filter_map(xmlrpc_message).collect()
    }
}

fn xmlrpc_message(request: &HttpRequest) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(&request.body).unwrap();
    let (_, rest) = text.split_once("<base64>")?;
    Some(BASE64_STANDARD.decode(rest.split_once("</base64>").unwrap().0).unwrap())
}

fn xmlrpc_value(value: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{value}</value>\n</param>\n</params>\n</methodResponse>\n"
    )
}

fn xmlrpc_fault(code: u32, words: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n<value><int>{code}\
         </int></value>\n</member>\n<member>\n<name>faultString</name>\n<value><string>{words}</string></value>\n</member>\n\
         </struct></value>\n</fault>\n</methodResponse>\n"
    )
}

/// A relay half a minute after the recorded mail, with these sections.
async fn start_relay(sections: &str) -> WebhookHarness {
    start_relay_with_provider("mailgun", "", sections).await
}

/// Starts a relay with more keys of its upstream.
async fn start_relay_with_provider(provider: &str, upstream: &str, sections: &str) -> WebhookHarness {
    let key = if provider == "mailgun" {
        format!("webhook_signing_key = {SIGNING_KEY:?}\n")
    } else {
        String::new()
    };
    WebhookHarness::start_at(NOW_SECONDS, provider, &format!("{key}{upstream}\n{sections}")).await
}

/// Returns the keys of a Brevo upstream with this API.
fn brevo_account(api: &mock_http::MockHttpServer) -> String {
    format!(
        "api_base_url = \"http://{}\"\napi_key = \"the-api-key\"\nwebhook_token = \"0123456789abcdef0123\"\n\
         [upstream.reconcile]\nenabled = false\n",
        api.address
    )
}

fn smtp_target(deliver: &str, sink: &SmtpSink) -> String {
    format!(
        "[[inbound.target]]\ndeliver = \"{deliver}\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n",
        sink.port()
    )
}

fn http_target(endpoint: &mock_http::MockHttpServer) -> String {
    format!(
        "[[inbound.target]]\ndeliver = \"http\"\nurl = \"http://{}/in\"\nsecret = \"s\"\nallow_private = true\n",
        endpoint.address
    )
}

/// Waits for the only mail in this state.
async fn wait_for_state(harness: &WebhookHarness, leg: InboundState) -> InboundSummary {
    let there = || harness.daemon.store().find_inbound(2, |mail| mail.state == leg).unwrap();
    wait_until("the mail's end", || !there().is_empty()).await;
    there().remove(0)
}

/// A send that is a report, in the store.
async fn put_own_dsn(harness: &WebhookHarness) -> String {
    use mailtrail_trail::{AcceptedMessage, DsnAction, Message, ReportedRecipient};
    let (id, other) =
        (webhook_harness::SENT_ID.parse().unwrap(), "01K54Z8Q3V7N5X9B2C6D8F0GHK".parse().unwrap());
    let dsn_for =
        Some(ReportedRecipient { tracking_id: other, recipient_index: 0, action: DsnAction::Failed });
    let accepted = AcceptedMessage {
        message: Message { dsn_for, ..Message::new(id, "report") },
        recipients: vec!["b@c".parse().unwrap()],
    };
    harness.daemon.store().put_message_applied(accepted, bytes::Bytes::new()).await.unwrap();
    webhook_harness::SENT_ID.to_owned()
}

/// A raw mail with its line in front.
fn with_delivered_to(mail: &[u8]) -> Vec<u8> {
    [format!("Delivered-To: {REPLY_ADDRESS}\r\n").as_bytes(), mail].concat()
}

/// Returns the mail of the recorded form.
fn raw_mail() -> Vec<u8> {
    let form = read_fixture("route_forward_mime.form");
    let mut fields = form_urlencoded::parse(&form);
    fields.find(|(name, _)| name == "body-mime").unwrap().1.into_owned().into_bytes()
}

fn read_fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/mailgun/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn replace_bytes(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(bytes, old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

fn encode_form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// A form as Mailgun posts it.
fn signed_form(key: &str, at: u64, token: &str, fields: &[(&str, &str)]) -> String {
    let at = at.to_string();
    let signature = mailgun::sign_webhook(&Secret::new(key), &at, token);
    let own = [("timestamp", &*at), ("token", token), ("signature", &*signature)];
    encode_form(&[fields, &own].concat())
}

/// Returns the counts of all inbound mail, newest first.
fn missing_attachment_counts(harness: &WebhookHarness) -> Vec<u64> {
    let views =
        mailtrail_relay::admin::find_inbound(harness.daemon.store(), &InboundFilter::default()).unwrap();
    views
        .iter()
        .rev()
        .map(|view| serde_json::to_value(view).unwrap()["missing_files"].as_u64().unwrap())
        .collect()
}

/// Returns a Mailgun form with these parts: value of `Content-Disposition`, more header lines, bytes.
fn multipart_form(token: &str, count: Option<&str>, parts: &[(&[u8], &[u8], Vec<u8>)]) -> Vec<u8> {
    let at = NOW_SECONDS.to_string();
    let signature = mailgun::sign_webhook(&Secret::new(SIGNING_KEY), &at, token);
    let headers = format!("[[\"Message-Id\", \"<{token}@example.net>\"], [\"Subject\", \"files\"]]");
    let fields = [
        ("recipient", REPLY_ADDRESS),
        ("sender", "ada@example.net"),
        ("body-plain", "see attachment"),
        ("message-headers", &*headers),
        ("timestamp", &*at),
        ("token", token),
        ("signature", &*signature),
    ];
    let mut form = Vec::new();
    let mut add = |disposition: &[u8], more: &[u8], bytes: &[u8]| {
        let head = [b"--parts\r\nContent-Disposition: ", disposition, more, b"\r\n\r\n"].concat();
        form.extend([&*head, bytes, b"\r\n"].concat());
    };
    for (name, value) in fields.into_iter().chain(count.map(|count| ("attachment-count", count))) {
        add(format!("form-data; name=\"{name}\"").as_bytes(), b"", value.as_bytes());
    }
    for (disposition, more, bytes) in parts {
        add(disposition, more, bytes);
    }
    form.extend(b"--parts--\r\n");
    form
}

/// The real program and the port that it takes mail from outside at; its target is not there.
fn start_process(more: &str) -> (u16, RelayProcess) {
    let (port, nobody) = (free_port(), free_port());
    let process =
        RelayProcess::with_configuration(|data, ports| render_config(data, ports, port, nobody, more));
    (port, process)
}

fn config_of(process: &RelayProcess, port: u16, sink: u16, more: &str) -> String {
    render_config(process.data_dir().to_str().unwrap(), [process.address(0).port(), 0, 0], port, sink, more)
}

fn render_config(data: &str, ports: [u16; 3], port: u16, sink: u16, more: &str) -> String {
    format!(
        "[server]\nhostname = \"relay.example.com\"\ndata_dir = {data:?}\n[[listener]]\naddress = \"127.0.0.1:{}\"\n\
         tls = \"none\"\nauth = \"none\"\n[[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\nhost = \"127.0.0.1\"\nport = 1\n\
         tls = \"none\"\nusername = \"u\"\npassword = \"p\"\nwebhook_signing_key = {SIGNING_KEY:?}\n[http]\naddress = \"127.0.0.1:{port}\"\n\
         [[inbound.target]]\ndeliver = \"smtp\"\nhost = \"127.0.0.1\"\nport = {sink}\ntls = \"none\"\n{more}",
        ports[0]
    )
}

async fn post_mail(port: u16, number: usize, mail: &str) -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let body = signed_form(
        SIGNING_KEY,
        now,
        &number.to_string(),
        &[("recipient", REPLY_ADDRESS), ("sender", "a@b"), ("body-mime", mail)],
    );
    let tls = mailtrail_net::tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let request = client.post(format!("http://127.0.0.1:{port}/inbound/up/mime"));
    request.header(FORM_HEADERS[0].0, FORM_HEADERS[0].1).body(body).send().await.unwrap().status().as_u16()
}

/// Runs a command and parses its output, one JSON object per line.
async fn run_json_command(process: &RelayProcess, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command.arg("--config").arg(process.directory().join("mailtrail.toml")).args(arguments);
    let output = testkit::run_if_installed(&mut command).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {out} {}", String::from_utf8_lossy(&output.stderr));
    out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const SIGNING_KEY: &str = "test-webhook-signing-key";
const NOW_SECONDS: u64 = 1_789_387_830;
const REPLY_ADDRESS: &str = "reply+S00042@mg.example.com";
const FORM_HEADERS: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];
const PARTS_HEADERS: &[(&str, &str)] = &[("content-type", "multipart/form-data; boundary=parts")];
const MULTIPART_HEADERS: &[(&str, &str)] =
    &[("content-type", "multipart/form-data; boundary=----mt-fixture-boundary-0001")];
