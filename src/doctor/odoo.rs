use crate::doctor::check_result::{Finding, Status};
use mailtrail_relay::sink::odoo::{OdooSettings, preflight};

/// Whether Odoo would do as it is told.
pub(super) async fn look(sink: &str, settings: &OdooSettings) -> Vec<Finding> {
    vec![match preflight(settings).await {
        Ok(ready) => Finding::ok("odoo", sink, ready),
        Err(error) => Finding::error(Status::Fail, "odoo", sink, &error, "look at Odoo's log"),
    }]
}
