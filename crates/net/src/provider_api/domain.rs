/// A sending domain, as its provider sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendingDomain {
    /// Whether the provider sends its mail.
    pub is_active: bool,
    /// The provider's word for how it stands.
    pub state: String,
    /// What the provider wants to find in the DNS; empty where it does not say.
    pub dns_records: Vec<DnsRecord>,
}

/// A record that belongs into the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// `TXT` or `CNAME`.
    pub kind: String,
    /// Whose.
    pub name: String,
    /// What it says.
    pub value: String,
}
