//! Audit log of operator actions. An action is in the journal before it is performed.

use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use mailtrail_trail::{OperatorAction, OperatorActionData};

/// Records an operator action and its reason.
pub(super) async fn record_action(
    api: &ApiState,
    data: OperatorActionData,
    operator: &str,
    reason: &str,
) -> Result<(), ApiError> {
    let (at, operator) = (api.clock.now(), operator.to_owned());
    Ok(api
        .store
        .record_operator_action(OperatorAction { at, data, operator, reason: truncate_reason(reason) })
        .await?)
}

/// Truncates a reason to its maximum length.
pub fn truncate_reason(reason: &str) -> String {
    reason.trim().chars().take(MAX_REASON_CHARS).collect()
}

/// Maximum length of a reason in characters. A replay writes it once per event.
const MAX_REASON_CHARS: usize = 1000;
