/// A sending domain, as its provider sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendingDomain {
    /// Whether the provider sends its mail.
    pub is_active: bool,
    /// State in the provider's terms.
    pub state: String,
    /// DNS records that the provider expects; empty if it does not report them.
    pub dns_records: Vec<DnsRecord>,
}

/// A record that belongs into the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Type: `TXT` or `CNAME`.
    pub kind: String,
    /// Domain name of the record.
    pub name: String,
    /// Expected value.
    pub value: String,
}
