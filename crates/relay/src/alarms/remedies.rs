//! Remedies of the alarms, as in notifications.

use crate::alarms::registry::AlarmKind;

/// Returns the remedy for a kind of alarm, in one sentence; `docs/operations.md` has more.
pub(super) const fn remedy(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::Breaker => {
            "check whether the upstream can be reached; `mailtrail breaker status` shows the time of the next try, \
             `mailtrail breaker close UPSTREAM` skips the wait"
        }
        AlarmKind::UpstreamAccount => {
            "compare login and account with the provider's panel, then `mailtrail breaker close UPSTREAM`"
        }
        AlarmKind::Tls => {
            "check whether a proxy intercepts TLS, the upstream's `host` and `ca_file`, and the machine's clock"
        }
        AlarmKind::Quota => "extend the plan and raise `quota`, or route bulk mail elsewhere",
        AlarmKind::Overdue => "save the log, restart mailtrail, which resumes such mail, and report a bug",
        AlarmKind::Ledger => {
            "run `mailtrail store verify`, then `mailtrail store rebuild`, and report a bug; no mail is lost"
        }
        AlarmKind::Heartbeat => {
            "`mailtrail trace` with the id from the text shows the progress of the test mail"
        }
        AlarmKind::MissingEvents => {
            "`mailtrail doctor` compares the registered webhooks; check the web server in front of [http], too"
        }
        AlarmKind::Signature => {
            "add the provider's new key beside the old one in `webhook_signing_key` or `webhook_token`, and reload"
        }
        AlarmKind::Clock => "check NTP with `timedatectl`",
        AlarmKind::Backlog => "`mailtrail queue shape` shows upstream, domain and age of queued mail",
        AlarmKind::RelayLatency => "check the queue's length, then `connections` and `rate` of the upstream",
        AlarmKind::UpstreamStuck => {
            "check the provider's status page; a second upstream in the route takes the mail until then"
        }
        AlarmKind::BounceRate => {
            "remove the addresses of `mailtrail log --status bounced` from the application's lists"
        }
        AlarmKind::ComplaintRate => "stop the mailing that `mailtrail stats --by tag` shows",
        AlarmKind::DeliveryRate => "`mailtrail log --status bounced` and `--status failed` show the reasons",
        AlarmKind::Sink => "check the endpoint, or Odoo's user and rights: `mailtrail doctor`",
        AlarmKind::Inbound => {
            "check the target, or Odoo's user and rights; `mailtrail inbound list` shows queued messages"
        }
        AlarmKind::DiskSpace => "free space, or shorten [retention]; never delete files of journal/",
        AlarmKind::Certificate => "renew it; it is loaded without a restart",
        AlarmKind::Journal => {
            "check the disk and the kernel's log; applications get 452 until the journal can be written"
        }
        AlarmKind::DeadLetters => {
            "`mailtrail events dead`, `mailtrail inbound dead` and `mailtrail sink dead NAME` show the reasons"
        }
        AlarmKind::SuppressionSync => {
            "check the account's api_key, then run `mailtrail suppress sync --upstream UPSTREAM`"
        }
        AlarmKind::EventPolls => {
            "check the account's api_key and its rights; until then events arrive by webhook only"
        }
        AlarmKind::Descriptors => {
            "raise LimitNOFILE of the unit, or lower `connections` in the configuration"
        }
        AlarmKind::Listener => {
            "`ss -ltnp` shows the program that has the address: end it, or change `address`"
        }
        AlarmKind::Task => {
            "keep the log with the panic and report the fault; a restart of mailtrail loses nothing"
        }
        AlarmKind::SuppressedRecipients => {
            "`mailtrail log --status suppressed` shows recipients and reasons; `mailtrail suppress remove ADDRESS` permits \
             mail to an address again"
        }
    }
}
