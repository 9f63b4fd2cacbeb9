//! What operators have the relay do. It is in the journal before it is done.

use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use mailtrail_trail::{OperatorAction, OperatorActionData};

/// Notes what an operator has the relay do now, and why.
pub(super) async fn record_action(
    panel: &ApiState,
    data: OperatorActionData,
    operator: &str,
    reason: &str,
) -> Result<(), ApiError> {
    let (at, operator) = (panel.clock.now(), operator.to_owned());
    Ok(panel
        .store
        .record_operator_action(OperatorAction { at, data, operator, reason: truncate_reason(reason) })
        .await?)
}

/// As much of a reason as is kept.
pub fn truncate_reason(reason: &str) -> String {
    reason.trim().chars().take(MAX_REASON_CHARS).collect()
}

/// Characters of a reason. A replay writes it once for each report.
const MAX_REASON_CHARS: usize = 1000;
