use std::fmt;

/// A Message-ID without its angle brackets (RFC 5322 section 3.6.4), as providers report it. It is **not** unique:
/// Odoo sends one Message-ID in several transactions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// Reads a Message-ID with or without brackets; `None` when nothing is left, or it holds blanks or controls.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('<').unwrap_or(text);
        let text = text.strip_suffix('>').unwrap_or(text);
        let fine = !text.is_empty()
            && text.len() <= MAX_LENGTH
            && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '<' || c == '>');
        fine.then(|| Self(text.into()))
    }

    /// The id without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether Odoo made this id, about a record or not.
    pub fn is_odoo(&self) -> bool {
        self.0.rsplit_once('@').is_some_and(|(left, _)| left.contains("-openerp-"))
    }

    /// Odoo's record, when Odoo made this id:
    /// `<15 digits.unix time.15 digits-openerp-<record id>-<model>@host>` (Odoo 18, `odoo/tools/mail.py`).
    pub fn odoo_record(&self) -> Option<Record> {
        let (left, _) = self.0.rsplit_once('@')?;
        let (_, tag) = left.split_once("-openerp-")?;
        let (id, model) = tag.split_once('-')?;
        Record::new(model, id)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

/// The business record that Odoo sent a mail about; written `model,id` as Odoo's references are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    model: Box<str>,
    id: u64,
}

impl Record {
    fn new(model: &str, id: &str) -> Option<Self> {
        let named = !model.is_empty()
            && model.len() <= MAX_MODEL
            && model.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
        let id = id.parse().ok().filter(|_| named && !id.starts_with('+'))?;
        Some(Self { model: model.into(), id })
    }

    /// The model: `sale.order`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The record's number in its model.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Reads one of the objects that `X-Odoo-Objects` lists: `sale.order-42`.
    pub fn from_odoo_object(object: &str) -> Option<Self> {
        let (model, id) = object.trim().rsplit_once('-')?;
        Self::new(model, id)
    }

    /// Reads the written form `sale.order,42`.
    pub fn parse(text: &str) -> Option<Self> {
        let (model, id) = text.split_once(',')?;
        Self::new(model.trim(), id.trim())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.model, self.id)
    }
}

/// A header line's limit (RFC 5322 section 2.1.1).
const MAX_LENGTH: usize = 998;
const MAX_MODEL: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_not_part_of_the_id() {
        for text in ["<a.b@c>", " <a.b@c> ", "a.b@c"] {
            assert_eq!(MessageId::parse(text).map(|id| id.to_string()), Some("a.b@c".into()));
        }
        for text in ["", "<>", "a b@c", "a\nb@c", "<a><b>"] {
            assert_eq!(MessageId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn odoo_records_are_read_from_either_place() {
        let id =
            MessageId::parse("<110238984183935.1795250271.027339696884155-openerp-2-crm.lead@vm>").unwrap();
        assert_eq!(id.odoo_record().map(|r| r.to_string()), Some("crm.lead,2".into()));
        assert!(id.is_odoo());
        assert!(!MessageId::parse("20260914.1@app-openerp-1").unwrap().is_odoo());
        assert_eq!(Record::from_odoo_object(" crm.lead-2"), Record::parse("crm.lead,2"));
        for tag in ["private", "reply_to", "message-notify", "loop-detection-bounce-email"] {
            let id = MessageId::parse(&format!("1.2.3-openerp-{tag}@vm")).unwrap();
            assert_eq!((id.odoo_record(), id.is_odoo()), (None, true), "{tag}");
        }
    }
}
