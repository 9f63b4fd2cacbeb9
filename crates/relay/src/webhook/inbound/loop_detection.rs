//! Mail that is kept back because an answer to it, or its delivery, would bring it back. None of it is dropped, and
//! reports about failures are let through: Odoo reads them.

use mailtrail_mail::{HeaderSection, Mailbox, fold_address};

/// Why a mail to `recipient` with that header is kept back; `None` for nearly all. `auto_replies` says whether answers
/// of machines are let through.
pub fn hold_reason(header: &HeaderSection<'_>, recipient: &Mailbox, auto_replies: bool) -> Option<String> {
    let text =
        |name: &str| header.find_field(name).map(|field| field.to_text().to_lowercase()).unwrap_or_default();
    let all = |name: &'static str| header.fields().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let hops = all("Received").count();
    if hops > MAX_RECEIVED_FIELDS {
        return Some(format!("it runs in circles: {hops} servers have passed it on"));
    }
    let names =
        |name: &'static str| all(name).any(|field| strip_brackets(&field.to_text()) == recipient.to_folded());
    if names("Delivered-To") || names("X-Loop") {
        return Some(format!("it runs in circles: it was delivered to {recipient} before"));
    }
    if auto_replies || text("Content-Type").starts_with("multipart/report") {
        return None;
    }
    let answers = text("Auto-Submitted").starts_with("auto-replied") || text("Precedence") == "auto_reply";
    let marked = AUTOREPLY_HEADERS.iter().any(|name| header.find_field(name).is_some());
    if answers || marked {
        return Some(
            "an answer that a machine gave; `auto_replies` in [inbound] lets such mail through".to_owned(),
        );
    }
    // Odoo writes back to whoever writes to its catchall and names no mail of Odoo's.
    let machine = !matches!(text("Auto-Submitted").split(';').next().map(str::trim), None | Some("" | "no"));
    let names_none = header.find_field("In-Reply-To").is_none() && header.find_field("References").is_none();
    let catchall = recipient.local_part().eq_ignore_ascii_case("catchall");
    (machine && names_none && catchall)
        .then(|| "a machine wrote to the catchall address, and Odoo would write back to it".to_owned())
}

fn strip_brackets(text: &str) -> String {
    fold_address(text.trim().trim_start_matches('<').trim_end_matches('>'))
}

/// Servers that a mail may pass (RFC 5321 section 6.3 allows as few as 100 header lines for all of them).
const MAX_RECEIVED_FIELDS: usize = 50;
/// What programs mark their answers with that know nothing of RFC 3834.
const AUTOREPLY_HEADERS: [&str; 3] = ["X-Autoreply", "X-Autorespond", "X-Auto-Reply"];

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(header: &str, recipient: &str, auto_replies: bool) -> bool {
        let message = format!("{header}\r\n\r\nReceived: x\r\n");
        let recipient = recipient.parse().unwrap();
        hold_reason(&HeaderSection::parse(message.as_bytes()), &recipient, auto_replies).is_some()
    }

    #[test]
    fn delivers_personal_mail_and_dsns() {
        for header in [
            "Subject: hello",
            "Auto-Submitted: no",
            "Auto-Submitted: auto-generated",
            "Precedence: bulk",
            "Precedence: list\r\nList-Id: <x>",
            "Delivered-To: somebody@else.example",
            "X-Loop: somebody@else.example",
            "From: MAILER-DAEMON@x\r\nAuto-Submitted: auto-replied\r\nContent-Type: Multipart/Report; boundary=b",
            &"Received: x\r\n".repeat(50),
        ] {
            assert!(!is_held(header.trim_end(), "Info@Example.com", false), "{header}");
        }
        assert!(!is_held("Subject: a person", "catchall@example.com", false));
        assert!(!is_held(
            "Auto-Submitted: auto-generated\r\nReferences: <a@b>",
            "catchall@example.com",
            false
        ));
    }

    #[test]
    fn holds_loops_and_automatic_replies() {
        for (header, always) in [
            (&*"Received: x\r\n".repeat(51), true),
            ("Delivered-To: <info@example.com>", true),
            ("delivered-to: a@b\r\nDelivered-To: INFO@example.com", true),
            ("X-Loop: info@example.com", true),
            ("Auto-Submitted: auto-replied (vacation)", false),
            ("Precedence: auto_reply", false),
            ("X-Autoreply: yes", false),
        ] {
            assert!(is_held(header.trim_end(), "Info@Example.com", false), "{header}");
            assert_eq!(is_held(header.trim_end(), "Info@Example.com", true), always, "{header}");
        }
        assert!(is_held("Auto-Submitted: auto-generated", "Catchall@example.com", false));
    }
}
