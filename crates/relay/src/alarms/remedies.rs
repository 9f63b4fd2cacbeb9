use crate::alarms::registry::AlarmKind;

/// What to do about such trouble, in one sentence; `docs/operations.md` has more.
pub(super) const fn remedy(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::Breaker => {
            "look whether the upstream can be reached; `mailtrail breaker status` tells when it is tried again, \
             `mailtrail breaker close UPSTREAM` tries at once"
        }
        AlarmKind::UpstreamAccount => {
            "compare login and account with the provider's panel, then `mailtrail breaker close UPSTREAM`"
        }
        AlarmKind::Tls => {
            "look who takes the connection apart, at the upstream's `host` and `ca_file`, and at the machine's clock"
        }
        AlarmKind::Quota => "buy more and raise `quota`, or route bulk mail elsewhere",
        AlarmKind::Overdue => {
            "keep the log, restart mailtrail, which takes such mail up again, and report the fault"
        }
        AlarmKind::Ledger => {
            "`mailtrail store verify`, then `mailtrail store rebuild`, and report the fault; no mail is lost"
        }
        AlarmKind::Heartbeat => {
            "`mailtrail trace` with the id that is named shows how far the test mail came"
        }
        AlarmKind::MissingEvents => {
            "`mailtrail doctor` compares the webhooks that are registered; look at the web server in front, too"
        }
        AlarmKind::Signature => {
            "put the provider's new key beside the old one in `webhook_signing_key`, or in `webhook_token`, and reload"
        }
        AlarmKind::Clock => "see to it that NTP works: `timedatectl`",
        AlarmKind::Backlog => "`mailtrail queue shape` tells for which upstream and domain mail waits",
        AlarmKind::RelayLatency => {
            "look at the queue's length, then at `connections` and `rate` of the upstream"
        }
        AlarmKind::UpstreamStuck => {
            "look at the provider's status page; a second upstream in the route takes the mail meanwhile"
        }
        AlarmKind::BounceRate => "take the addresses of `mailtrail log --status bounced` out of the lists",
        AlarmKind::ComplaintRate => "stop the mailing that `mailtrail stats --by tag` names",
        AlarmKind::DeliveryRate => "`mailtrail log --status bounced` and `--status failed` have the reasons",
        AlarmKind::Sink => "look at the endpoint, or at Odoo's user and rights: `mailtrail doctor`",
        AlarmKind::Inbound => {
            "look at the target, or at Odoo's user and rights; `mailtrail inbound list` shows what waits"
        }
        AlarmKind::DiskSpace => {
            "make room on the disk, or shorten [retention]; never delete files of journal/"
        }
        AlarmKind::Certificate => "renew it; it is taken up without a restart",
        AlarmKind::Journal => {
            "look at the disk and at the kernel's log: applications get 452 until it can be written"
        }
        AlarmKind::DeadLetters => {
            "`mailtrail events dead`, `mailtrail inbound dead` and `mailtrail sink dead NAME` have the reasons"
        }
        AlarmKind::SuppressionSync => {
            "`mailtrail suppress sync --upstream UPSTREAM` tries at once; look at the account's api_key"
        }
        AlarmKind::EventPolls => {
            "look at the account's api_key and its rights; webhooks bring the events meanwhile"
        }
        AlarmKind::Descriptors => {
            "raise LimitNOFILE of the unit, or lower `connections` in the configuration"
        }
        AlarmKind::Listener => {
            "`ss -ltnp` names the program that has the address: end it, or change `address`"
        }
        AlarmKind::SuppressedRecipients => {
            "`mailtrail log --status suppressed` names the recipients and why; `mailtrail suppress remove ADDRESS` sends \
             mail there again"
        }
    }
}
