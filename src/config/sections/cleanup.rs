//! Header cleanup: keys of `[[user]]`, and of `[[listener]]` for clients without a login.

use crate::config::keywords::quote_list;
use crate::config::section::Section;
use mailtrail_mail::HeaderCleanup;

/// Reads the keys; a cleanup that is not configured is on.
pub(crate) fn read_cleanup(section: &mut Section<'_>) -> HeaderCleanup {
    let HeaderCleanup { drop_headers, replace_unusable, convert_mbox_line, rewrite_list_unsubscribe } =
        HeaderCleanup::default();
    let expected = format!("one of {}", quote_list(HeaderCleanup::DROPPABLE_HEADERS.into_iter()));
    HeaderCleanup {
        drop_headers: section.list("drop_headers", &expected, find_droppable).unwrap_or(drop_headers),
        replace_unusable: section.boolean("replace_unusable").unwrap_or(replace_unusable),
        convert_mbox_line: section.boolean("mbox_line").unwrap_or(convert_mbox_line),
        rewrite_list_unsubscribe: section.boolean("repair").unwrap_or(rewrite_list_unsubscribe),
    }
}

fn find_droppable(name: &str) -> Option<&'static str> {
    HeaderCleanup::DROPPABLE_HEADERS.into_iter().find(|known| known.eq_ignore_ascii_case(name))
}
