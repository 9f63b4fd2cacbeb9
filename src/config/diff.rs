//! Differences between two configurations.

use crate::config::settings::Config;
use mailtrail_trail::Routing;

impl Config {
    /// Returns the part of this configuration that a process running with `running` can apply, and the keys that change
    /// only with a restart; those keep their running values.
    pub fn limit_to_reloadable(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let mut waiting = Vec::new();
        if self.data_dir != running.data_dir {
            waiting.push("server.data_dir");
            self.data_dir.clone_from(&running.data_dir);
        }
        if self.admin.socket != running.admin.socket {
            waiting.push("admin.socket");
            self.admin.socket.clone_from(&running.admin.socket);
        }
        if self.log.format != running.log.format {
            waiting.push("log.format");
            self.log.format = running.log.format;
        }
        if self.log.journald_socket != running.log.journald_socket {
            waiting.push("log.journal");
            self.log.journald_socket.clone_from(&running.log.journald_socket);
        }
        (self, waiting)
    }

    /// Sections that differ between the two.
    pub fn changed_sections(&self, other: &Self) -> Vec<&'static str> {
        // Destructured without `..`, so that a new field requires its section here.
        let Self {
            hostname,
            data_dir,
            listeners,
            certificate,
            users,
            limits,
            login_policy,
            upstreams,
            routing,
            http_address,
            http_tls,
            webhook_settings,
            sources,
            admin,
            log,
            retention,
            send_dsns,
            dedup_window,
            heartbeat,
            sinks,
            alarm_thresholds,
            alarm_notifications,
            suppression,
            suppression_sync_interval,
            inbound_rules,
            inbound_targets,
            warnings: _,
            secret_files: _,
        } = self;
        let bulk = |routing: &Routing| (routing.bulk_match.clone(), routing.min_bulk_recipients);
        let sections = [
            ("server", *hostname != other.hostname || *data_dir != other.data_dir),
            ("listener", *listeners != other.listeners),
            ("tls", *certificate != other.certificate),
            ("user", *users != other.users),
            ("limits", *limits != other.limits || *login_policy != other.login_policy),
            ("upstream", *upstreams != other.upstreams),
            ("route", routing.routes != other.routing.routes),
            ("bulk", bulk(routing) != bulk(&other.routing)),
            (
                "http",
                *http_address != other.http_address
                    || *http_tls != other.http_tls
                    || *webhook_settings != other.webhook_settings,
            ),
            ("source", *sources != other.sources),
            ("admin", *admin != other.admin),
            ("log", *log != other.log),
            ("retention", *retention != other.retention),
            ("reports", *send_dsns != other.send_dsns),
            ("duplicates", *dedup_window != other.dedup_window),
            ("heartbeat", *heartbeat != other.heartbeat),
            ("sink", *sinks != other.sinks),
            (
                "alarms",
                *alarm_thresholds != other.alarm_thresholds
                    || *alarm_notifications != other.alarm_notifications,
            ),
            (
                "suppression",
                *suppression != other.suppression
                    || *suppression_sync_interval != other.suppression_sync_interval,
            ),
            ("inbound", *inbound_rules != other.inbound_rules || *inbound_targets != other.inbound_targets),
        ];
        sections.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::settings::CertificateFiles;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn parse_with_changes(changes: &[(&str, &str)]) -> Config {
        let mut text = BASE_CONFIG.to_owned();
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        config::parse(&text, Path::new("/etc/mailtrail.toml"), &BTreeMap::new()).unwrap()
    }

    #[test]
    fn reports_each_changed_section() {
        let before = parse_with_changes(&[]);
        assert_eq!(before.changed_sections(&parse_with_changes(&[])), [""; 0]);
        for (section, old, new) in [
            ("server", "relay.example.com", "other.example.com"),
            ("listener", "tls = \"starttls\"", "tls = \"implicit\""),
            ("user", "hunter2", "hunter3"),
            ("limits", "recipients = 10", "recipients = 11"),
            ("limits", "login_failures = 5", "login_failures = 6"),
            ("upstream", "\"secret\"", "\"changed\""),
            ("upstream", "jitter = 0.1", "jitter = 0.2"),
            ("upstream", "\"signing\"", "\"other\""),
            ("route", "senders = []", "senders = [\"*@example.com\"]"),
            ("bulk", "recipients = 50", "recipients = 51"),
            ("http", "127.0.0.1:8080", "127.0.0.1:8081"),
            ("http", "connections = 7", "connections = 8"),
            ("http", "connections = 7", "connections = 7\ntls = \"implicit\""),
            ("source", "\"generic\"", "\"activecampaign\""),
            ("admin", "127.0.0.1:8025", "127.0.0.1:8026"),
            ("admin", "hosts = []", "hosts = [\"relay.lan\"]"),
            ("log", "level = \"info\"", "level = \"debug\""),
            ("retention", "ledger = \"30d\"", "ledger = \"31d\""),
            ("reports", "\"sender\"", "\"nobody\""),
            ("duplicates", "\"off\"", "\"15min\""),
            ("heartbeat", "canary@", "other@"),
            ("sink", "events.jsonl", "other.jsonl"),
            ("alarms", "silence = \"30min\"", "silence = \"off\""),
            ("alarms", "ops@example.com", "ada@example.com"),
            ("suppression", "\"never\"", "\"90d\""),
            ("suppression", "\"24h\"", "\"12h\""),
            ("inbound", "\"30MiB\"", "\"31MiB\""),
            ("inbound", "odoo.example.com", "odoo.example.net"),
        ] {
            assert_eq!(parse_with_changes(&[(old, new)]).changed_sections(&before), [section], "{new}");
        }
        let files = CertificateFiles { certificate: "a.pem".into(), private_key: "a.key".into() };
        assert_eq!(Config { certificate: Some(files), ..before.clone() }.changed_sections(&before), ["tls"]);
    }

    #[test]
    fn restart_only_keys_retain_their_running_values() {
        let before = parse_with_changes(&[]);
        let (config, waiting) = parse_with_changes(&[("/srv/a", "/srv/b"), ("\"text\"", "\"json\"")])
            .limit_to_reloadable(&before);
        assert_eq!(waiting, ["server.data_dir", "admin.socket", "log.format"]);
        assert_eq!(config.changed_sections(&before), [""; 0]);
        let (config, waiting) =
            parse_with_changes(&[("level = \"info\"", "level = \"debug\"")]).limit_to_reloadable(&before);
        assert_eq!((config.changed_sections(&before), waiting), (vec!["log"], vec![]));
        let mut elsewhere = before.clone();
        elsewhere.log.journald_socket = "/srv/journal".into();
        let (config, waiting) = elsewhere.limit_to_reloadable(&before);
        assert_eq!((config.changed_sections(&before), waiting), (vec![], vec!["log.journal"]));
    }

    const BASE_CONFIG: &str = r#"
[server]
hostname = "relay.example.com"
data_dir = "/srv/a"
[[listener]]
address = "127.0.0.1:2525"
tls = "starttls"
[[user]]
name = "odoo"
password = "hunter2"
[limits]
recipients = 10
login_failures = 5
[[upstream]]
name = "mailgun"
provider = "mailgun"
username = "postmaster@example.com"
password = "secret"
webhook_signing_key = "signing"
[upstream.retry]
jitter = 0.1
[[route]]
name = "news"
upstreams = ["mailgun"]
senders = []
[bulk]
recipients = 50
[http]
address = "127.0.0.1:8080"
connections = 7
[[source]]
name = "other"
kind = "generic"
secret = "source-secret"
[admin]
address = "127.0.0.1:8025"
hosts = []
[log]
level = "info"
format = "text"
[retention]
ledger = "30d"
[reports]
failures = "sender"
[duplicates]
window = "off"
[heartbeat]
to = "canary@example.net"
from = "relay@example.com"
[[sink]]
kind = "file"
path = "events.jsonl"
[alarms]
silence = "30min"
mail_to = ["ops@example.com"]
mail_from = "relay@example.com"
[suppression]
hard_bounce = "never"
sync = "24h"
[inbound]
size = "30MiB"
[[inbound.target]]
deliver = "odoo"
url = "https://odoo.example.com"
database = "prod"
username = "mail"
api_key = "key"
"#;
}
