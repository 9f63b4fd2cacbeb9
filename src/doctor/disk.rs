use crate::doctor::check_result::{Finding, Status};
use mailtrail_store::{Free, LOW};
use rustix::fs::{Access, access, statvfs};
use std::path::Path;

/// Whether there is room for mail.
pub(super) fn look(data_dir: &Path) -> Vec<Finding> {
    let subject = data_dir.display().to_string();
    if !data_dir.is_dir() {
        let remedy = "start the relay, which makes it, or name another data_dir under [server]";
        return vec![Finding::bad(Status::Fail, CHECK, subject, "there is no such directory", remedy)];
    }
    let writable = match access(data_dir, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(CHECK, &*subject, "it can be written"),
        Err(error) => {
            let remedy = "give it to the user that the relay runs as, and ask as that user";
            Finding::bad(Status::Fail, CHECK, &*subject, format!("it cannot be written: {error}"), remedy)
        }
    };
    let room = match statvfs(data_dir) {
        Ok(disk) => room(&subject, Free::of(&disk)),
        Err(error) => {
            let what = format!("its room is not known: {error}");
            Finding::bad(Status::Unknown, ROOM, subject, what, "look at it with df")
        }
    };
    vec![writable, room]
}

fn room(subject: &str, free: Free) -> Finding {
    let what = match free.inodes {
        Some(inodes) => format!("{} MiB and {inodes} inodes are free", free.bytes >> 20),
        None => format!("{} MiB are free", free.bytes >> 20),
    };
    let remedy = "make room on the disk, or shorten [retention]";
    if free.admit(0).is_err() {
        let what = format!("{what}; no mail is taken (452)");
        Finding::bad(Status::Fail, ROOM, subject, what, remedy)
    } else if free.is_low(LOW) {
        Finding::bad(Status::Warn, ROOM, subject, what, remedy)
    } else {
        Finding::ok(ROOM, subject, what)
    }
}

const CHECK: &str = "data_dir";
const ROOM: &str = "disk";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_store::{FEW_INODES, LEFT_FREE, LEFT_INODES};

    #[test]
    fn a_disk_is_judged_by_what_the_store_needs() {
        for (bytes, inodes, expected) in [
            (LOW, Some(FEW_INODES), Status::Ok),
            (LOW, None, Status::Ok),
            (LOW - 1, None, Status::Warn),
            (LOW, Some(FEW_INODES - 1), Status::Warn),
            (LEFT_FREE, Some(FEW_INODES), Status::Warn),
            (LEFT_FREE - 1, Some(FEW_INODES), Status::Fail),
            (LOW, Some(LEFT_INODES - 1), Status::Fail),
        ] {
            let finding = room("/data", Free { bytes, inodes });
            assert_eq!(finding.status, expected, "{bytes} {inodes:?}");
            assert_eq!(finding.remedy.is_empty(), expected == Status::Ok);
        }
    }
}
