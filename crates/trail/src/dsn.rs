//! Delivery status notifications (RFC 3464) in the form that Odoo's mail gateway parses: one recipient in
//! each.

use crate::message::{Message, ReportedRecipient};
use crate::provider::TRACKING_ID_HEADER;
use crate::queue_action::DsnAction;
use crate::recipient::Recipient;
use crate::recipient_state::RecipientState;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use mailtrail_mail::{HeaderLine, Mailbox, Timestamp, TrackingId};

/// Content of a DSN.
pub struct DsnMessage<'a> {
    /// Tracking id of the DSN.
    pub id: TrackingId,
    /// Current time.
    pub now: Timestamp,
    /// Name of the relay.
    pub hostname: &'a str,
    /// Reported recipient and reason.
    pub reported: ReportedRecipient,
    /// The reported message.
    pub message: &'a Message,
    /// The recipient's state.
    pub recipient: &'a Recipient,
}

/// Subject of all failure DSNs; it is Postfix's, which filters recognise.
pub const FAILURE_SUBJECT: &str = "Undelivered Mail Returned to Sender";

impl DsnMessage<'_> {
    /// Composes the message: the reason as text, which Odoo shows to its user; the machine-readable part with
    /// the one recipient; the header fields that identify the original message.
    pub fn compose(&self, to: &Mailbox) -> Vec<u8> {
        let parts = vec![
            MimePart::new("text/plain", self.reason_text() + "\r\n"),
            mime_part("message/delivery-status", self.delivery_status()),
            mime_part("text/rfc822-headers", self.original_headers()),
        ];
        let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
        let mut message = MessageBuilder::new()
            .header(TRACKING_ID_HEADER, Raw::new(self.id.to_string()))
            .from(Address::new_address(
                Some("Mail Delivery System"),
                format!("MAILER-DAEMON@{}", self.hostname),
            ))
            .to(to.as_str())
            .subject(self.subject())
            .message_id(format!("{}@{}", self.id, self.hostname))
            .header("Date", Raw::new(self.now.to_rfc5322()))
            .header("Auto-Submitted", Raw::new("auto-replied"));
        if let Some(original) = &self.message.message_id {
            message = message.in_reply_to(original.as_str()).references(original.as_str());
        }
        let message = message.body(MimePart::new(report, BodyPart::Multipart(parts)));
        message.write_to_vec().expect("memory takes what is written")
    }

    fn is_failure(&self) -> bool {
        self.reported.action == DsnAction::Failed
    }

    fn subject(&self) -> &'static str {
        if self.is_failure() { FAILURE_SUBJECT } else { "Successful Mail Delivery Report" }
    }

    fn reason_text(&self) -> String {
        let address = &self.recipient.address;
        match (self.is_failure(), self.recipient.explanation(), self.recipient.state()) {
            (false, ..) => format!("{address}: delivered"),
            (true, Some(explanation), _) => format!("{address}: {explanation}"),
            (true, None, state) => format!("{address}: {}", state.as_str()),
        }
    }

    /// Returns the fields per message, an empty line, and the fields per recipient (RFC 3464 section 2).
    fn delivery_status(&self) -> String {
        let Message { dsn, .. } = self.message;
        let diagnostic = self.recipient.effective_diagnostic();
        let mut lines = vec![HeaderLine::new("Reporting-MTA", &format!("dns; {}", self.hostname))];
        lines.extend(dsn.envid.as_ref().map(|envid| HeaderLine::new("Original-Envelope-Id", envid)));
        lines.push(HeaderLine::new("Arrival-Date", &self.message.id.timestamp().to_rfc5322()));
        let mut about = vec![HeaderLine::new("Final-Recipient", &typed_address(&self.recipient.address))];
        let orcpt = dsn.parameters_of(self.reported.recipient_index).and_then(|wish| wish.orcpt.as_ref());
        about.extend(orcpt.map(|orcpt| HeaderLine::new("Original-Recipient", orcpt)));
        about.push(HeaderLine::new("Action", if self.is_failure() { "failed" } else { "delivered" }));
        about.push(HeaderLine::new("Status", &self.status_code()));
        if self.is_failure() {
            about.extend(
                diagnostic.host.as_ref().map(|host| HeaderLine::new("Remote-MTA", &format!("dns; {host}"))),
            );
            // Section 2.3.6: the type describes the text, and a text that no server sent is no SMTP reply.
            let kind = if diagnostic.code.is_some() { "smtp" } else { "x-mailtrail" };
            let diagnosis = self.recipient.explanation().map(|explanation| format!("{kind}; {explanation}"));
            about.extend(diagnosis.map(|diagnosis| HeaderLine::new("Diagnostic-Code", &diagnosis)));
        }
        [lines, about].map(|lines| join_lines(&lines)).join("\r\n")
    }

    /// Returns the status (RFC 3463) in the class that the DSN's action requires.
    fn status_code(&self) -> String {
        if !self.is_failure() {
            return "2.0.0".to_owned();
        }
        let known = self
            .recipient
            .effective_diagnostic()
            .enhanced_status
            .as_ref()
            .filter(|status| status.starts_with("5."));
        match (known, self.recipient.state()) {
            (Some(status), _) => status.clone(),
            // Delivery time expired.
            (None, RecipientState::Expired) => "5.4.7".to_owned(),
            (None, _) => "5.0.0".to_owned(),
        }
    }

    fn original_headers(&self) -> String {
        let mut lines = Vec::new();
        let message_id = self.message.message_id.as_ref().map(|id| format!("<{}>", id.as_str()));
        lines.extend(message_id.map(|id| HeaderLine::new("Message-ID", &id)));
        lines.push(HeaderLine::new(TRACKING_ID_HEADER, &self.message.id.to_string()));
        join_lines(&lines)
    }
}

fn join_lines(lines: &[HeaderLine]) -> String {
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// Returns a part with a fixed encoding: 8bit.
fn mime_part(kind: &'static str, text: String) -> MimePart<'static> {
    let encoding = if text.is_ascii() { "7bit" } else { "8bit" };
    MimePart::new(kind, text).transfer_encoding(encoding)
}

/// Returns `rfc822; a@b`, or the form of RFC 6533.
fn typed_address(address: &Mailbox) -> String {
    format!("{}; {address}", if address.is_ascii() { "rfc822" } else { "utf-8" })
}
