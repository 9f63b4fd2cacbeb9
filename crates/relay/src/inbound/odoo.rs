use crate::inbound::message::{InboundMessage, corruption_of};
use crate::inbound::response::TargetResponse;
use mail_parser::{MessageParser, MimeHeaders};
use mailtrail_net::odoo::{INBOUND_ACTION, OdooClient, OdooConnection, OdooError, find_action_id};
use mailtrail_net::webhook_client;
use std::io;

pub struct OdooTarget {
    settings: OdooConnection,
    client: Option<OdooClient>,
    route: Option<GatewayRoute>,
}

/// How mail gets into Odoo's gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GatewayRoute {
    /// By the server action of that number, which has every right that the gateway needs.
    Action(u64),
    /// Directly, with the user's own rights.
    Direct,
}

impl OdooTarget {
    pub fn new(settings: OdooConnection) -> Self {
        Self { settings, client: None, route: None }
    }

    /// Delivers the message to `mail.thread.message_process`. Odoo recognizes a repeated delivery by its Message-ID.
    /// Missing access rights concern only this message: another one may be for a record that the user may write.
    pub async fn deliver(&mut self, letter: &InboundMessage) -> TargetResponse {
        match letter.read_head().await {
            Ok(beginning) => {
                if let Some(why) = misclassified_by_odoo(&beginning) {
                    return TargetResponse::Rejected(why.to_owned());
                }
            }
            Err(error) => {
                return corruption_of(&error)
                    .map_or_else(|| TargetResponse::Deferred(error.to_string()), TargetResponse::Rejected);
            }
        }
        match self.process_message(letter).await {
            Ok(Some(record)) => TargetResponse::Accepted(format!("record {record}")),
            Ok(None) => TargetResponse::Accepted("nothing to add: a report, or known already".to_owned()),
            Err(OdooError::BodyUnreadable { kind: io::ErrorKind::InvalidData, cause }) => {
                TargetResponse::Rejected(cause)
            }
            Err(fault @ OdooError::BodyUnreadable { .. }) => TargetResponse::Deferred(fault.to_string()),
            Err(fault) if fault.is_permanent() => TargetResponse::Rejected(fault.to_string()),
            Err(fault @ OdooError::AccessDenied { .. }) => {
                let user = &self.settings.username;
                TargetResponse::AccessDenied(format!(
                    "{fault}; `mailtrail setup odoo --inbound --user {user}` gives it the rights"
                ))
            }
            Err(fault) => TargetResponse::Unavailable(fault.to_string()),
        }
    }

    async fn process_message(&mut self, letter: &InboundMessage) -> Result<Option<u64>, OdooError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => webhook_client::build_odoo_client(&self.settings).map_err(OdooError::ClientSetup)?,
        };
        let client = self.client.insert(client);
        let way = match self.route {
            Some(way) => way,
            None => find_route(client).await?,
        };
        let taken = match way {
            GatewayRoute::Action(number) => {
                client.run_action_with_message(number, letter.size(), letter.pieces()).await
            }
            GatewayRoute::Direct => client.process_message(letter.size(), letter.pieces()).await,
        };
        // A set-up in the meantime makes another action.
        let is_stale = matches!(taken, Err(OdooError::AccessDenied { .. } | OdooError::NotFound { .. }));
        self.route = (!is_stale).then_some(way);
        taken
    }
}

/// Returns the server action, if there is one that the user may read.
async fn find_route(client: &mut OdooClient) -> Result<GatewayRoute, OdooError> {
    match find_action_id(client, INBOUND_ACTION.key).await {
        Ok(number) => Ok(number.map_or(GatewayRoute::Direct, GatewayRoute::Action)),
        // A user that may not read groups may still have every right that its mail needs.
        Err(OdooError::AccessDenied { .. }) => Ok(GatewayRoute::Direct),
        Err(fault) => Err(fault),
    }
}

/// Returns the reason for which Odoo would misread a DSN: it counts every DSN as a permanent failure.
fn misclassified_by_odoo(beginning: &[u8]) -> Option<&'static str> {
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
    fn accepts_only_failure_reports() {
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
            assert_eq!(
                misclassified_by_odoo(report(kind, status).as_bytes()).is_none(),
                taken,
                "{kind} {status}"
            );
        }
        assert_eq!(misclassified_by_odoo(b"Subject: a person's\r\n\r\nAction: delayed\r\n"), None);
    }
}
