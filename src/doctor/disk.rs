use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_store::{FreeSpace, LOW_BYTES};
use rustix::fs::{Access, access, statvfs};
use std::path::Path;

/// Checks free space and inodes.
pub(super) fn check_disk(data_dir: &Path) -> Vec<CheckResult> {
    let subject = data_dir.display().to_string();
    if !data_dir.is_dir() {
        let remedy = "start the relay, which makes it, or name another data_dir under [server]";
        return vec![CheckResult::problem(
            CheckStatus::Fail,
            DATA_DIR_CHECK,
            subject,
            "there is no such directory",
            remedy,
        )];
    }
    let writable = match access(data_dir, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => CheckResult::ok(DATA_DIR_CHECK, &*subject, "it can be written"),
        Err(error) => {
            let remedy = "give it to the user that the relay runs as, and ask as that user";
            CheckResult::problem(
                CheckStatus::Fail,
                DATA_DIR_CHECK,
                &*subject,
                format!("cannot write there: {error}"),
                remedy,
            )
        }
    };
    let room = match statvfs(data_dir) {
        Ok(disk) => evaluate_free_space(&subject, FreeSpace::from_statvfs(&disk)),
        Err(error) => {
            let what = format!("cannot read the free space: {error}");
            CheckResult::problem(CheckStatus::Unknown, DISK_CHECK, subject, what, "look at it with df")
        }
    };
    vec![writable, room]
}

fn evaluate_free_space(subject: &str, free: FreeSpace) -> CheckResult {
    let what = match free.inodes {
        Some(inodes) => format!("{} MiB and {inodes} inodes are free", free.bytes >> 20),
        None => format!("{} MiB are free", free.bytes >> 20),
    };
    let remedy = "make room on the disk, or shorten [retention]";
    if free.check_available(0).is_err() {
        let what = format!("{what}; no mail is taken (452)");
        CheckResult::problem(CheckStatus::Fail, DISK_CHECK, subject, what, remedy)
    } else if free.is_low(LOW_BYTES) {
        CheckResult::problem(CheckStatus::Warn, DISK_CHECK, subject, what, remedy)
    } else {
        CheckResult::ok(DISK_CHECK, subject, what)
    }
}

const DATA_DIR_CHECK: &str = "data_dir";
const DISK_CHECK: &str = "disk";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_store::{LOW_INODES, RESERVED_BYTES, RESERVED_INODES};

    #[test]
    fn evaluates_disk_by_store_limits() {
        for (bytes, inodes, expected) in [
            (LOW_BYTES, Some(LOW_INODES), CheckStatus::Ok),
            (LOW_BYTES, None, CheckStatus::Ok),
            (LOW_BYTES - 1, None, CheckStatus::Warn),
            (LOW_BYTES, Some(LOW_INODES - 1), CheckStatus::Warn),
            (RESERVED_BYTES, Some(LOW_INODES), CheckStatus::Warn),
            (RESERVED_BYTES - 1, Some(LOW_INODES), CheckStatus::Fail),
            (LOW_BYTES, Some(RESERVED_INODES - 1), CheckStatus::Fail),
        ] {
            let finding = evaluate_free_space("/data", FreeSpace { bytes, inodes });
            assert_eq!(finding.status, expected, "{bytes} {inodes:?}");
            assert_eq!(finding.remedy.is_empty(), expected == CheckStatus::Ok);
        }
    }
}
