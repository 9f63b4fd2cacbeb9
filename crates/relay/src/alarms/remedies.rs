use crate::alarms::registry::Kind;

/// What to do about such trouble, in one sentence; `docs/operations.md` has more.
pub(super) const fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Breaker => {
            "look whether the upstream can be reached; `mailtrail breaker status` tells when it is tried again, \
             `mailtrail breaker close UPSTREAM` tries at once"
        }
        Kind::Account => {
            "compare login and account with the provider's panel, then `mailtrail breaker close UPSTREAM`"
        }
        Kind::Tls => {
            "look who takes the connection apart, at the upstream's `host` and `ca_file`, and at the machine's clock"
        }
        Kind::Quota => "buy more and raise `quota`, or route bulk mail elsewhere",
        Kind::Overdue => {
            "keep the log, restart mailtrail, which takes such mail up again, and report the fault"
        }
        Kind::Ledger => {
            "`mailtrail store verify`, then `mailtrail store rebuild`, and report the fault; no mail is lost"
        }
        Kind::Heartbeat => "`mailtrail trace` with the id that is named shows how far the test mail came",
        Kind::Silence => {
            "`mailtrail doctor` compares the webhooks that are registered; look at the web server in front, too"
        }
        Kind::Signature => {
            "put the provider's new key beside the old one in `webhook_signing_key`, or in `webhook_token`, and reload"
        }
        Kind::Clock => "see to it that NTP works: `timedatectl`",
        Kind::Backlog => "`mailtrail queue shape` tells for which upstream and domain mail waits",
        Kind::Slow => "look at the queue's length, then at `connections` and `rate` of the upstream",
        Kind::Stuck => {
            "look at the provider's status page; a second upstream in the route takes the mail meanwhile"
        }
        Kind::Bounces => "take the addresses of `mailtrail log --status bounced` out of the lists",
        Kind::Complaints => "stop the mailing that `mailtrail stats --by tag` names",
        Kind::Deliveries => "`mailtrail log --status bounced` and `--status failed` have the reasons",
        Kind::Sink => "look at the endpoint, or at Odoo's user and rights: `mailtrail doctor`",
        Kind::Inbound => {
            "look at the target, or at Odoo's user and rights; `mailtrail inbound list` shows what waits"
        }
        Kind::Disk => "make room on the disk, or shorten [retention]; never delete files of journal/",
        Kind::Certificate => "renew it; it is taken up without a restart",
        Kind::Journal => {
            "look at the disk and at the kernel's log: applications get 452 until it can be written"
        }
        Kind::Dead => {
            "`mailtrail events dead`, `mailtrail inbound dead` and `mailtrail sink dead NAME` have the reasons"
        }
        Kind::Sync => {
            "`mailtrail suppress sync --upstream UPSTREAM` tries at once; look at the account's api_key"
        }
        Kind::Polls => "look at the account's api_key and its rights; webhooks bring the events meanwhile",
        Kind::Descriptors => "raise LimitNOFILE of the unit, or lower `connections` in the configuration",
        Kind::Listener => "`ss -ltnp` names the program that has the address: end it, or change `address`",
        Kind::Withheld => {
            "`mailtrail log --status suppressed` names the recipients and why; `mailtrail suppress remove ADDRESS` sends \
             mail there again"
        }
    }
}
