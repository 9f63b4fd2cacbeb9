use mailtrail_mail::{OdooRecord, fold_domain};
use mailtrail_trail::Message;
use reqwest::Url;

/// Which mail a database sent, and where its records are shown; an empty list is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooInstance {
    /// Where people find Odoo.
    pub url: Url,
    /// Release of Odoo, 16 to 19, which determines the URLs of records.
    pub release: u8,
    /// Labels of the clients that are this Odoo.
    pub client_labels: Vec<String>,
    /// Domains of envelope senders, as [`fold_domain`] writes them.
    pub sender_domains: Vec<String>,
    /// Domains of its Message-IDs.
    pub message_id_hosts: Vec<String>,
}

impl OdooInstance {
    /// Whether that database may have sent the mail.
    pub fn owns(&self, send: &Message) -> bool {
        let domain = send.sender.as_ref().map(|sender| fold_domain(sender.domain()));
        let host = send.message_id.as_ref().and_then(|id| id.as_str().rsplit_once('@')).map(|(_, host)| host);
        matches_condition(&self.client_labels, Some(&send.client))
            && matches_condition(&self.sender_domains, domain.as_deref())
            && matches_condition(&self.message_id_hosts, host)
    }

    /// Where the first record that a mail is about is shown, if the mail is this database's.
    pub fn record_url(&self, send: &Message) -> Option<String> {
        let record = send.odoo_records.first().filter(|_| self.owns(send))?;
        Some(self.record_page_url(record))
    }

    fn record_page_url(&self, record: &OdooRecord) -> String {
        let base = self.url.as_str().trim_end_matches('/');
        let (model, id) = (record.model(), record.id());
        if self.release >= 18 {
            format!("{base}/odoo/{model}/{id}")
        } else {
            format!("{base}/web#id={id}&model={model}&view_type=form")
        }
    }
}

fn matches_condition(wanted: &[String], known: Option<&str>) -> bool {
    wanted.is_empty() || known.is_some_and(|known| wanted.iter().any(|wanted| wanted == known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::{MessageId, Timestamp, TrackingId};

    #[test]
    fn links_records_of_the_owning_instance() {
        let place = OdooInstance {
            url: "https://odoo.example.com/".parse().unwrap(),
            release: 18,
            client_labels: vec!["shop".into()],
            sender_domains: vec!["example.com".into()],
            message_id_hosts: vec!["vm".into()],
        };
        let send = Message {
            sender: "Bounce@EXAMPLE.com".parse().ok(),
            message_id: MessageId::parse("1.2.3-openerp-42-sale.order@vm"),
            odoo_records: vec![OdooRecord::parse("sale.order,42").unwrap()],
            ..Message::new(TrackingId::new(Timestamp::from_secs(1), 1), "shop")
        };
        let url = |place: &OdooInstance| place.record_url(&send);
        assert_eq!(url(&place).as_deref(), Some("https://odoo.example.com/odoo/sale.order/42"));
        let old = OdooInstance { release: 17, ..place.clone() };
        let hash = "https://odoo.example.com/web#id=42&model=sale.order&view_type=form";
        assert_eq!(url(&old).as_deref(), Some(hash));
        for other in [
            OdooInstance { client_labels: vec!["other".into()], ..place.clone() },
            OdooInstance { sender_domains: vec!["other.example".into()], ..place.clone() },
            OdooInstance { message_id_hosts: vec!["vm2".into()], ..place.clone() },
        ] {
            assert_eq!(url(&other), None);
        }
    }
}
