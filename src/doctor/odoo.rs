use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_relay::sink::odoo::{OdooSettings, run_preflight};

/// Checks that Odoo accepts the sink's requests.
pub(super) async fn check_odoo(sink: &str, settings: &OdooSettings) -> Vec<CheckResult> {
    vec![match run_preflight(settings).await {
        Ok(ready) => CheckResult::ok("odoo", sink, ready),
        Err(error) => CheckResult::from_error(CheckStatus::Fail, "odoo", sink, &error, "look at Odoo's log"),
    }]
}
