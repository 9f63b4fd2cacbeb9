use crate::inbound::Verdict;
use crate::inbound::message::{Letter, damage};
use mail_parser::{MessageParser, MimeHeaders};
use mailtrail_net::odoo::{Client, Fault, INBOUND, Settings, find_number};
use mailtrail_net::webhook_client;
use std::io;

pub struct OdooTarget {
    settings: Settings,
    client: Option<Client>,
    way: Option<Way>,
}

/// How mail gets into Odoo's gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the server action of that number, which has every right that the gateway needs.
    Action(u64),
    /// Directly, with the user's own rights.
    Directly,
}

impl OdooTarget {
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: None, way: None }
    }

    /// Hands the mail to `mail.thread.message_process`. One that is handed over again because nothing was heard is known
    /// to Odoo by its Message-ID. What the user has no right to concerns this mail: another one may be for a record that
    /// the user may write.
    pub async fn deliver(&mut self, letter: &Letter) -> Verdict {
        match letter.beginning().await {
            Ok(beginning) => {
                if let Some(why) = misread(&beginning) {
                    return Verdict::Refused(why.to_owned());
                }
            }
            Err(error) => {
                return damage(&error).map_or_else(|| Verdict::Later(error.to_string()), Verdict::Refused);
            }
        }
        match self.process(letter).await {
            Ok(Some(record)) => Verdict::Taken(format!("record {record}")),
            Ok(None) => Verdict::Taken("nothing to add: a report, or known already".to_owned()),
            Err(Fault::Unread { kind: io::ErrorKind::InvalidData, cause }) => Verdict::Refused(cause),
            Err(fault @ Fault::Unread { .. }) => Verdict::Later(fault.to_string()),
            Err(fault) if fault.is_final() => Verdict::Refused(fault.to_string()),
            Err(fault @ Fault::Denied { .. }) => {
                let user = &self.settings.username;
                Verdict::Denied(format!(
                    "{fault}; `mailtrail setup odoo --inbound --user {user}` gives it the rights"
                ))
            }
            Err(fault) => Verdict::Away(fault.to_string()),
        }
    }

    async fn process(&mut self, letter: &Letter) -> Result<Option<u64>, Fault> {
        let client = match self.client.take() {
            Some(client) => client,
            None => webhook_client::odoo(&self.settings).map_err(Fault::Setup)?,
        };
        let client = self.client.insert(client);
        let way = match self.way {
            Some(way) => way,
            None => find_way(client).await?,
        };
        let taken = match way {
            Way::Action(number) => client.run_with_message(number, letter.size(), letter.pieces()).await,
            Way::Directly => client.process_message(letter.size(), letter.pieces()).await,
        };
        // A set-up in the meantime makes another action.
        let is_stale = matches!(taken, Err(Fault::Denied { .. } | Fault::Missing { .. }));
        self.way = (!is_stale).then_some(way);
        taken
    }
}

/// The action where there is one that the user may know of.
async fn find_way(client: &mut Client) -> Result<Way, Fault> {
    match find_number(client, INBOUND.key).await {
        Ok(number) => Ok(number.map_or(Way::Directly, Way::Action)),
        // A user that may not read groups may still have every right that its mail needs.
        Err(Fault::Denied { .. }) => Ok(Way::Directly),
        Err(fault) => Err(fault),
    }
}

/// Why Odoo would take a report for what it does not say: it counts every one as a failure for good.
fn misread(beginning: &[u8]) -> Option<&'static str> {
    let message = MessageParser::default().parse(beginning)?;
    let kind = message.content_type()?;
    if !(kind.ctype().eq_ignore_ascii_case("multipart") && kind.subtype() == Some("report")) {
        return None;
    }
    if kind.attribute("report-type").is_some_and(|kind| kind.eq_ignore_ascii_case("feedback-report")) {
        return Some("a report of a complaint, which Odoo would count as a bounce");
    }
    let is_status = |kind: &mail_parser::ContentType<'_>| {
        kind.ctype().eq_ignore_ascii_case("message") && kind.subtype() == Some("delivery-status")
    };
    let status = message.parts.iter().find(|part| part.content_type().is_some_and(is_status))?;
    let text = String::from_utf8_lossy(status.contents()).to_lowercase();
    let actions: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("action:")).map(str::trim).collect();
    let none_failed = !actions.is_empty() && !actions.iter().any(|action| action.starts_with("failed"));
    none_failed.then_some("a report of no failure, which Odoo would count as a bounce")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reports_of_failures_are_read_as_such() {
        let report = |kind: &str, status: &str| {
            format!(
                "From: MAILER-DAEMON@x\r\nContent-Type: multipart/report; report-type={kind}; boundary=b\r\n\r\n--b\r\n\r\nwords\r\n\
                 --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b\r\n\
                 {status}\r\n\r\n--b--\r\n"
            )
        };
        for (kind, status, taken) in [
            ("delivery-status", "Action: failed\r\nStatus: 5.1.1", true),
            ("delivery-status", "Action: Failed (x)", true),
            ("delivery-status", "Status: 5.1.1", true),
            ("delivery-status", "Action: delayed\r\nStatus: 4.4.1", false),
            ("delivery-status", "Action: relayed", false),
            ("feedback-report", "Action: failed", false),
        ] {
            assert_eq!(misread(report(kind, status).as_bytes()).is_none(), taken, "{kind} {status}");
        }
        assert_eq!(misread(b"Subject: a person's\r\n\r\nAction: delayed\r\n"), None);
    }
}
