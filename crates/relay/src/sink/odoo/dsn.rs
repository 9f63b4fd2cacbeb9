use crate::sink::event::SinkEvent;
use crate::sink::odoo::preflight::client_or_connect;
use crate::sink::odoo::status::{affected_recipients, changes_status};
use crate::sink::odoo::{BatchResult, OdooSink, unknown_message_text};
use bytes::Bytes;
use futures_util::stream;
use mailtrail_mail::{Mailbox, TrackingId, domain_to_unicode, fold_address};
use mailtrail_net::odoo::{OdooClient, OdooError};
use mailtrail_trail::{DsnAction, DsnMessage, Recipient, RecipientState, ReportedRecipient, Trail};
use serde_json::{Value, json};

/// State of a message in Odoo before a failure is reported.
enum OdooKnowledge {
    /// The bounce is recorded already.
    Bounced,
    /// The mail is known.
    Message,
    /// The mail is not visible.
    Unknown,
}

impl OdooSink {
    /// Sends one DSN for each recipient that failed permanently.
    pub(super) async fn send_dsns(&mut self, items: &[SinkEvent], batch_result: &mut BatchResult) {
        for (index, item) in
            items.iter().enumerate().filter(|(_, item)| changes_status(item.entry.event.kind))
        {
            let young = self.is_recent(item);
            for (number, trail, recipient) in affected_recipients(item, &self.settings) {
                let effects = &self.settings.status_options;
                let wanted = match recipient.state() {
                    RecipientState::Bounced => effects.bounced,
                    state => state.is_failure() && effects.failed,
                };
                if !wanted || item.superseded.contains(&number) {
                    continue;
                }
                match self.send_dsn(number, trail, recipient).await {
                    Ok(OdooKnowledge::Unknown) if young => {
                        batch_result.delay_event(index, unknown_message_text(&bracketed_message_id(trail)))
                    }
                    Ok(OdooKnowledge::Unknown) => {
                        batch_result.rejected.push((index, self.not_visible_text(trail)))
                    }
                    Ok(_) => {}
                    Err(fault) if self.is_event_error(index, &fault, batch_result).await => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Sends a DSN. Odoo counts a repeated DSN twice, so Odoo is queried first. A recorded bounce is not
    /// reported again, even after a call with an unknown result. A bounce of mail not visible to this user
    /// would be counted but not shown.
    async fn send_dsn(
        &mut self,
        recipient_index: u16,
        trail: &Trail,
        recipient: &Recipient,
    ) -> Result<OdooKnowledge, OdooError> {
        let mailings = self.readiness.as_ref().is_some_and(|ready| ready.has_mailings);
        let client = client_or_connect(&mut self.client, &self.settings).map_err(OdooError::ClientSetup)?;
        let known = query_odoo(client, &bracketed_message_id(trail), &recipient.address, mailings).await?;
        if let OdooKnowledge::Message = known {
            let now = self.clock.now();
            let report = DsnMessage {
                id: TrackingId::new(now, fastrand::u128(..)),
                now,
                hostname: &self.settings.hostname,
                reported: ReportedRecipient {
                    tracking_id: trail.message.id,
                    recipient_index,
                    action: DsnAction::Failed,
                },
                message: &trail.message,
                recipient,
            };
            // Odoo matches on the DSN's form; this address is its own if the envelope has it.
            let to = trail.message.sender.as_ref().unwrap_or(&recipient.address);
            let message = Bytes::from(report.compose(to));
            client.process_message(message.len() as u64, stream::iter([Ok(message)])).await?;
        }
        Ok(known)
    }

    fn not_visible_text(&self, trail: &Trail) -> String {
        format!(
            "Odoo shows {:?} no message {}: it is deleted, or the user may not read the document it is about; give it \
             the rights of that application, or use way = \"action\"",
            self.settings.login.username,
            bracketed_message_id(trail)
        )
    }
}

async fn query_odoo(
    client: &mut OdooClient,
    message_id: &str,
    to: &Mailbox,
    mailings: bool,
) -> Result<OdooKnowledge, OdooError> {
    let search = async |client: &mut OdooClient, model: &str, domain: Value| {
        let found = client.call_method(model, "search", json!([domain]), json!({ "limit": 1 })).await?;
        Ok::<_, OdooError>(found.as_array().is_some_and(|found| !found.is_empty()))
    };
    // Odoo stores domains in Unicode and sends A-labels.
    let folded = to.to_folded();
    let email = domain_to_unicode(&folded);
    let bounced = json!([
        ["mail_message_id.message_id", "=", message_id],
        ["res_partner_id.email_normalized", "=", email],
        ["notification_status", "=", "bounce"],
    ]);
    if search(client, "mail.notification", bounced).await? {
        return Ok(OdooKnowledge::Bounced);
    }
    let mut known = search(client, "mail.message", json!([["message_id", "=", message_id]])).await?;
    if mailings {
        let domain = json!([["message_id", "=", message_id]]);
        let fields = json!({ "fields": ["email", "trace_status"] });
        let traces = client.call_method("mailing.trace", "search_read", json!([domain]), fields).await?;
        for trace in traces.as_array().into_iter().flatten() {
            if trace["email"].as_str().is_some_and(|trace| fold_address(trace.trim()) == folded) {
                known = true;
                if trace["trace_status"] == "bounce" {
                    return Ok(OdooKnowledge::Bounced);
                }
            }
        }
    }
    Ok(if known { OdooKnowledge::Message } else { OdooKnowledge::Unknown })
}

fn bracketed_message_id(trail: &Trail) -> String {
    format!("<{}>", trail.message.message_id.as_ref().map(|id| id.as_str()).unwrap_or_default())
}
