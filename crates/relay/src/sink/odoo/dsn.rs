use crate::sink::event::Item;
use crate::sink::odoo::status::{concerned, is_turn};
use crate::sink::odoo::{OdooSink, Tally, connected, unknown};
use bytes::Bytes;
use futures_util::stream;
use mailtrail_mail::{Mailbox, TrackingId, fold_address, in_unicode};
use mailtrail_net::odoo::{Client, Fault};
use mailtrail_trail::{About, Occasion, Recipient, Report, State, Trail};
use serde_json::{Value, json};

/// What Odoo says before it is told of a failure.
enum Known {
    /// It has it already.
    Bounced,
    /// It knows the mail.
    Mail,
    /// It shows no such mail.
    Nothing,
}

impl OdooSink {
    /// One report for each recipient that failed for good.
    pub(super) async fn report(&mut self, items: &[Item], tally: &mut Tally) {
        for (place, item) in items.iter().enumerate().filter(|(_, item)| is_turn(item.entry.fact.what)) {
            let young = self.is_young(item);
            for (number, trail, recipient) in concerned(item, &self.settings) {
                let effects = &self.settings.effects;
                let wanted = match recipient.state() {
                    State::Bounced => effects.bounced,
                    state => state.is_failure() && effects.failed,
                };
                if !wanted || item.superseded.contains(&number) {
                    continue;
                }
                match self.report_one(number, trail, recipient).await {
                    Ok(Known::Nothing) if young => tally.delay(place, unknown(&message_id(trail))),
                    Ok(Known::Nothing) => tally.refused.push((place, self.unseen(trail))),
                    Ok(_) => {}
                    Err(fault) if self.is_own(place, &fault, tally).await => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Odoo counts a report that comes twice twice. So it is asked first: what it has is not reported again, also after
    /// a call whose end is unknown, and what it shows this user no mail for would be counted and not be shown.
    async fn report_one(&mut self, place: u16, trail: &Trail, recipient: &Recipient) -> Result<Known, Fault> {
        let mailings = self.ready.as_ref().is_some_and(|ready| ready.mailings);
        let client = connected(&mut self.client, &self.settings).map_err(Fault::Setup)?;
        let known = ask(client, &message_id(trail), &recipient.address, mailings).await?;
        if let Known::Mail = known {
            let now = self.clock.now();
            let report = Report {
                id: TrackingId::new(now, fastrand::u128(..)),
                now,
                hostname: &self.settings.hostname,
                about: About { id: trail.send.id, recipient: place, occasion: Occasion::Failure },
                send: &trail.send,
                recipient,
            };
            // Odoo goes by the report's form; this address is its own where the envelope has it.
            let to = trail.send.sender.as_ref().unwrap_or(&recipient.address);
            let message = Bytes::from(report.compose(to));
            client.process_message(message.len() as u64, stream::iter([Ok(message)])).await?;
        }
        Ok(known)
    }

    fn unseen(&self, trail: &Trail) -> String {
        format!(
            "Odoo shows {:?} no message {}: it is deleted, or the user may not read the document it is about; give it \
             the rights of that application, or use way = \"action\"",
            self.settings.login.username,
            message_id(trail)
        )
    }
}

async fn ask(client: &mut Client, message_id: &str, to: &Mailbox, mailings: bool) -> Result<Known, Fault> {
    let search = async |client: &mut Client, model: &str, domain: Value| {
        let found = client.call(model, "search", json!([domain]), json!({ "limit": 1 })).await?;
        Ok::<_, Fault>(found.as_array().is_some_and(|found| !found.is_empty()))
    };
    // Odoo keeps domains in Unicode and sends A-labels.
    let folded = to.folded();
    let email = in_unicode(&folded);
    let bounced = json!([
        ["mail_message_id.message_id", "=", message_id],
        ["res_partner_id.email_normalized", "=", email],
        ["notification_status", "=", "bounce"],
    ]);
    if search(client, "mail.notification", bounced).await? {
        return Ok(Known::Bounced);
    }
    let mut known = search(client, "mail.message", json!([["message_id", "=", message_id]])).await?;
    if mailings {
        let domain = json!([["message_id", "=", message_id]]);
        let fields = json!({ "fields": ["email", "trace_status"] });
        let traces = client.call("mailing.trace", "search_read", json!([domain]), fields).await?;
        for trace in traces.as_array().into_iter().flatten() {
            if trace["email"].as_str().is_some_and(|trace| fold_address(trace.trim()) == folded) {
                known = true;
                if trace["trace_status"] == "bounce" {
                    return Ok(Known::Bounced);
                }
            }
        }
    }
    Ok(if known { Known::Mail } else { Known::Nothing })
}

fn message_id(trail: &Trail) -> String {
    format!("<{}>", trail.send.message_id.as_ref().map(|id| id.as_str()).unwrap_or_default())
}
