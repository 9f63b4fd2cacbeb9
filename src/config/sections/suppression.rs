//! `[suppression]`: rules of the suppression list.

use crate::config::keywords::{SUPPRESSION_MODES, UNSUBSCRIBE_SCOPES};
use crate::config::section::Section;
use crate::config::units;
use crate::config::units::ONE_DAY;
use mailtrail_trail::suppression::SuppressionSettings;
use std::time::Duration;

/// Reads the section. The second value is the interval of the synchronization with the providers, if enabled.
pub(crate) fn read_suppression(root: &mut Section<'_>) -> (SuppressionSettings, Option<Duration>) {
    let usual = SuppressionSettings::default();
    let mut section = root.subsection("suppression");
    let settings = SuppressionSettings {
        mode: section.keyword("policy", &SUPPRESSION_MODES).unwrap_or(usual.mode),
        hard_bounce_expiry: read_expiry(&mut section, "hard_bounce").unwrap_or(usual.hard_bounce_expiry),
        complaint_expiry: read_expiry(&mut section, "complaint").unwrap_or(usual.complaint_expiry),
        unsubscribe_scope: section
            .keyword("unsubscribe", &UNSUBSCRIBE_SCOPES)
            .unwrap_or(usual.unsubscribe_scope),
        soft_bounce_limit: section.integer("soft_bounces", 0..=10).unwrap_or(usual.soft_bounce_limit),
        soft_bounce_window: section
            .duration("soft_bounce_window", ONE_DAY..=ONE_DAY * 60)
            .unwrap_or(usual.soft_bounce_window),
        soft_bounce_pause: section
            .duration("soft_bounce_pause", ONE_HOUR..=ONE_DAY * 30)
            .unwrap_or(usual.soft_bounce_pause),
    };
    let sync = section.parse("sync", "\"off\" or a duration from \"1h\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (ONE_HOUR..=ONE_DAY * 30).contains(duration);
        if text == OFF_KEYWORD { Some(None) } else { units::parse_duration(text).filter(allowed).map(Some) }
    });
    section.reject_unknown();
    (settings, sync.unwrap_or(Some(ONE_DAY)))
}

/// Reads the lifetime of an entry; `Some(None)` means no expiry.
fn read_expiry(section: &mut Section<'_>, key: &str) -> Option<Option<Duration>> {
    section.parse(key, "\"never\" or a duration from \"1d\" to \"3650d\"", |text| {
        let allowed = |duration: &Duration| (ONE_DAY..=ONE_DAY * 3650).contains(duration);
        if text == NEVER_KEYWORD { Some(None) } else { units::parse_duration(text).filter(allowed).map(Some) }
    })
}

/// Value for entries without expiry.
pub(crate) const NEVER_KEYWORD: &str = "never";
/// Value that turns an automatic action off.
pub(crate) const OFF_KEYWORD: &str = "off";
const ONE_HOUR: Duration = Duration::from_secs(3600);
