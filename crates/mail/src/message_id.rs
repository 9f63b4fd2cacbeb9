use std::borrow::Cow;
use std::fmt;

/// A Message-ID without its angle brackets (RFC 5322 section 3.6.4), as providers report it. It is **not** unique:
/// Odoo sends one Message-ID in several transactions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// Reads a Message-ID in any of its shapes, which all give the same: with brackets or without, with blanks, folds or a
    /// comment around them, folded within, in quotes, with needless quotes around its left part. `None` when nothing is
    /// left, or it holds blanks or controls.
    pub fn parse(text: &str) -> Option<Self> {
        let text = strip_brackets(text);
        // Within brackets, white space is the remainder of a fold.
        let text: Cow<'_, str> = match text.find(char::is_whitespace) {
            Some(_) if text.starts_with('<') || text.contains(['\r', '\n']) => {
                unfold_text(text)?.chars().filter(|c| !matches!(c, ' ' | '\t')).collect::<String>().into()
            }
            _ => text.into(),
        };
        let text = text.trim_start_matches('<').trim_end_matches('>');
        let text = strip_needless_quotes(text);
        let fine = !text.is_empty()
            && text.len() <= MAX_MESSAGE_ID_BYTES
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
    pub fn odoo_record(&self) -> Option<OdooRecord> {
        let (left, _) = self.0.rsplit_once('@')?;
        let (_, tag) = left.split_once("-openerp-")?;
        let (id, model) = tag.split_once('-')?;
        OdooRecord::new(model, id)
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

/// Returns the id without surrounding white space and quotes, and without a comment after it.
fn strip_brackets(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix("&lt;").and_then(|rest| rest.strip_suffix("&gt;")).unwrap_or(text);
    let bare =
        text.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\''])).unwrap_or(text).trim();
    // A quote around the left part alone is no pair.
    let text = if bare.starts_with('<') || !bare.contains('"') { bare } else { text };
    match text.split_once('>') {
        Some((id, behind)) if text.starts_with('<') && behind.trim_start().starts_with('(') => id,
        _ => text,
    }
}

/// Removes line ends that are followed by white space; `None` if there is another one.
fn unfold_text(text: &str) -> Option<String> {
    let unfolded = text.replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", "\t");
    (!unfolded.contains(['\r', '\n'])).then_some(unfolded)
}

/// Removes the quotes of `"left"@right` if `left` needs none (RFC 5322 section 3.6.4 has none at all).
fn strip_needless_quotes(text: &str) -> Cow<'_, str> {
    let parts = text.rsplit_once('@').and_then(|(left, right)| {
        let plain = left.strip_prefix('"')?.strip_suffix('"')?;
        let fine =
            !plain.is_empty() && !plain.contains(|c: char| c.is_whitespace() || "<>()[]@:;,\\\"".contains(c));
        fine.then(|| format!("{plain}@{right}"))
    });
    parts.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The business record that Odoo sent a mail about; written `model,id` as Odoo's references are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooRecord {
    model: Box<str>,
    id: u64,
}

impl OdooRecord {
    fn new(model: &str, id: &str) -> Option<Self> {
        let named = !model.is_empty()
            && model.len() <= MAX_MODEL_BYTES
            && model.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
        let id = id.parse().ok().filter(|_| named && !id.starts_with('+'))?;
        Some(Self { model: model.into(), id })
    }

    /// Returns the model, such as `sale.order`.
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

impl fmt::Display for OdooRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.model, self.id)
    }
}

/// A header line's limit (RFC 5322 section 2.1.1).
const MAX_MESSAGE_ID_BYTES: usize = 998;
const MAX_MODEL_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_brackets() {
        for text in ["<a.b@c>", " <a.b@c> ", "a.b@c"] {
            assert_eq!(MessageId::parse(text).map(|id| id.to_string()), Some("a.b@c".into()));
        }
        for text in [
            "<a.b\r\n @c>",
            "a.b\n\t@c",
            "< a.b@c >",
            "\"<a.b@c>\"",
            "'a.b@c'",
            "<\"a.b\"@c>",
            "\"a.b\"@c",
            "<<a.b@c>>",
            "<a.b@c> (comment)",
            "&lt;a.b@c&gt;",
        ] {
            assert_eq!(MessageId::parse(text).map(|id| id.to_string()), Some("a.b@c".into()), "{text:?}");
        }
        assert_eq!(MessageId::parse("<\"a:b\"@c>").map(|id| id.to_string()), Some("\"a:b\"@c".into()));
        for text in ["", "<>", "a b@c", "a\nb@c", "<a><b>", "\"\""] {
            assert_eq!(MessageId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn parses_odoo_records_from_both_headers() {
        let id =
            MessageId::parse("<110238984183935.1795250271.027339696884155-openerp-2-crm.lead@vm>").unwrap();
        assert_eq!(id.odoo_record().map(|r| r.to_string()), Some("crm.lead,2".into()));
        assert!(id.is_odoo());
        assert!(!MessageId::parse("20260914.1@app-openerp-1").unwrap().is_odoo());
        assert_eq!(OdooRecord::from_odoo_object(" crm.lead-2"), OdooRecord::parse("crm.lead,2"));
        for tag in ["private", "reply_to", "message-notify", "loop-detection-bounce-email"] {
            let id = MessageId::parse(&format!("1.2.3-openerp-{tag}@vm")).unwrap();
            assert_eq!((id.odoo_record(), id.is_odoo()), (None, true), "{tag}");
        }
    }
}
