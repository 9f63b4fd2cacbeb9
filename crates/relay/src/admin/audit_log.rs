//! What operators have the relay do. It is in the journal before it is done.

use crate::admin::error::Refusal;
use crate::admin::state::Panel;
use mailtrail_trail::{Errand, Ordered};

/// Notes what an operator has the relay do now, and why.
pub(super) async fn note(panel: &Panel, errand: Errand, operator: &str, reason: &str) -> Result<(), Refusal> {
    let (at, operator) = (panel.clock.now(), operator.to_owned());
    Ok(panel.store.order(Ordered { at, errand, operator, reason: noted(reason) }).await?)
}

/// As much of a reason as is kept.
pub fn noted(reason: &str) -> String {
    reason.trim().chars().take(REASON).collect()
}

/// Characters of a reason. A replay writes it once for each report.
const REASON: usize = 1000;
