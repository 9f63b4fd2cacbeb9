//! `[suppression]`: which addresses get no mail.

use crate::config::keywords::{SUPPRESSION_POLICIES, UNSUBSCRIBES};
use crate::config::section::Section;
use crate::config::sections::DAY;
use crate::config::units;
use mailtrail_trail::suppression::Settings;
use std::time::Duration;

/// Reads it; also how often our list and the providers' are brought together, if they are.
pub(crate) fn read(root: &mut Section<'_>) -> (Settings, Option<Duration>) {
    let usual = Settings::default();
    let mut section = root.table("suppression");
    let settings = Settings {
        policy: section.one_of("policy", &SUPPRESSION_POLICIES).unwrap_or(usual.policy),
        hard_bounce: expiry(&mut section, "hard_bounce").unwrap_or(usual.hard_bounce),
        complaint: expiry(&mut section, "complaint").unwrap_or(usual.complaint),
        unsubscribe: section.one_of("unsubscribe", &UNSUBSCRIBES).unwrap_or(usual.unsubscribe),
        soft_bounces: section.integer("soft_bounces", 0..=10).unwrap_or(usual.soft_bounces),
        soft_bounce_window: section
            .duration("soft_bounce_window", DAY..=DAY * 60)
            .unwrap_or(usual.soft_bounce_window),
        soft_bounce_pause: section
            .duration("soft_bounce_pause", HOUR..=DAY * 30)
            .unwrap_or(usual.soft_bounce_pause),
    };
    let sync = section.parsed("sync", "\"off\" or a duration from \"1h\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (HOUR..=DAY * 30).contains(duration);
        if text == OFF { Some(None) } else { units::duration(text).filter(allowed).map(Some) }
    });
    section.finish();
    (settings, sync.unwrap_or(Some(DAY)))
}

/// How long something counts; `Some(None)`: for ever.
fn expiry(section: &mut Section<'_>, key: &str) -> Option<Option<Duration>> {
    section.parsed(key, "\"never\" or a duration from \"1d\" to \"3650d\"", |text| {
        let allowed = |duration: &Duration| (DAY..=DAY * 3650).contains(duration);
        if text == NEVER { Some(None) } else { units::duration(text).filter(allowed).map(Some) }
    })
}

/// What does not end by itself.
pub(crate) const NEVER: &str = "never";
/// What is never done by itself.
pub(crate) const OFF: &str = "off";
const HOUR: Duration = Duration::from_secs(3600);
