/// An address that is told one kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The provider's word for the kind of event, as registrations have it.
    pub event: String,
    /// The address.
    pub url: String,
}
