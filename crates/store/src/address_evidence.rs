//! Suppression evidence with its address and list.

use mailtrail_mail::Pseudonym;
use mailtrail_trail::suppression::SuppressionEvidence;

/// Suppression evidence with its address and list.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressEvidence {
    /// Address in the form of [`mailtrail_mail::fold_address`].
    pub address: String,
    /// List, by its upstream's name; empty for the list that applies to every domain.
    pub list: String,
    /// Evidence for suppressing the address on that list.
    pub evidence: SuppressionEvidence,
}

impl AddressEvidence {
    /// Returns whether the address was erased. An erased address can only be recognised, not shown.
    pub fn is_erased(&self) -> bool {
        Pseudonym::Suppression.is_pseudonym(&self.address)
    }
}
