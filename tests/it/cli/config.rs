//! Whole configurations: parsed settings, rendered text and reported faults.

use mailtrail::config;
use mailtrail::config::{Config, ConfigError};
use mailtrail_relay::submission::Password;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn reports_every_config_fault_as_recorded() {
    let cases: Vec<_> = include_str!("../../fixtures/config-faults.txt").split("\n=== ").skip(1).collect();
    assert!(cases.len() > 10);
    for case in cases {
        let (title, case) = case.split_once('\n').unwrap();
        let (input, expected) = case.split_once("---\n").unwrap();
        let (environment, text) = read_case(input);
        let faults = config::parse(&text, Path::new("mailtrail.toml"), &environment).unwrap_err();
        assert_eq!(faults.to_string(), expected.trim_end(), "{title}\n{faults}");
        assert_eq!(faults.iter().count(), expected.trim_end().lines().count(), "{title}");
        assert!(!format!("{faults:?}").contains("hunter2"), "{title}");
    }
}

fn read_case(input: &str) -> (BTreeMap<String, String>, String) {
    let (mut environment, mut text, mut behind) = (BTreeMap::new(), String::new(), String::new());
    for line in input.lines() {
        if let Some((name, value)) = line.strip_prefix("$ ").and_then(|line| line.split_once('=')) {
            environment.insert(name.to_owned(), value.to_owned());
        } else if let Some(sections) = line.strip_prefix("+ ") {
            sections.split(' ').for_each(|section| behind.push_str(valid_section(section)));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    (environment, text + &behind)
}

fn valid_section(section: &str) -> &'static str {
    match section {
        "server" => "[server]\nhostname = \"relay.example.com\"\n",
        "listener" => "[[listener]]\naddress = \"127.0.0.1:2525\"\n",
        "user" => "[[user]]\nname = \"odoo\"\npassword = \"hunter2\"\n",
        "upstream" => "[[upstream]]\nname = \"plain\"\nprovider = \"plain\"\nhost = \"smtp.example.com\"\n",
        other => panic!("no good {other}"),
    }
}

fn valid_config() -> String {
    ["server", "listener", "user", "upstream"].map(valid_section).concat()
}

fn parse_config(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    config::parse(text, Path::new("mailtrail.toml"), &environment)
}

/// Writes `text` and the files it names into a folder of its own.
fn load_with_files(text: &str, files: &[&str]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("secret-{file}\n")).unwrap();
    }
    let path = folder.path().join("mailtrail.toml");
    std::fs::write(&path, text).unwrap();
    config::load(&path, &BTreeMap::new())
}

const SHIPPED_CONFIG: &str = include_str!("../../../config/mailtrail.toml");

const REFERENCED_FILES: [&str; 20] = [
    "alarm-secret",
    "odoo-api-key",
    "certs/odoo.pem",
    "mail-password",
    "certs/mail.pem",
    "hook-secret",
    "odoo-password",
    "mailgun-smtp-password",
    "mailgun-signing-key",
    "mailgun-api-key",
    "brevo-token",
    "brevo-webhook-password",
    "campaigns-secret",
    "contacts-secret",
    "certs/relay.pem",
    "certs/relay.key",
    "certs/clients.pem",
    "certs/http.pem",
    "certs/http.key",
    "admin-token",
];

fn uncomment_shipped(prefix: &str) -> String {
    let key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        ["[[sink", "[[route", "[[source", "[[inbound", "[heartbeat"]
            .iter()
            .any(|start| line.starts_with(start))
            || (line.contains(" = ") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()))
    };
    let lines =
        SHIPPED_CONFIG.lines().map(|line| line.strip_prefix(prefix).filter(|rest| key(rest)).unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn shipped_config_is_valid() {
    let config = load_with_files(SHIPPED_CONFIG, &REFERENCED_FILES).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.upstreams[0].transport.host, "smtp.mailgun.org");
    assert_eq!(config.upstreams[0].webhook_signing_keys[0].expose(), "secret-mailgun-signing-key");
    assert!(config.http_address.is_some() && config.certificate.is_none());
}

#[test]
fn shipped_config_states_actual_defaults() {
    let text = uncomment_shipped("#");
    assert!(text.lines().filter(|line| SHIPPED_CONFIG.lines().all(|shipped| shipped != *line)).count() > 30);
    let (plain, uncommented) = (
        load_with_files(SHIPPED_CONFIG, &REFERENCED_FILES).unwrap(),
        load_with_files(&text, &REFERENCED_FILES).unwrap(),
    );
    assert_eq!(plain.to_toml(), uncommented.to_toml());
}

#[test]
fn shipped_config_mentions_every_key() {
    let text = uncomment_shipped("# ");
    let config = load_with_files(&text, &REFERENCED_FILES).unwrap();
    assert!(config.http_address.is_some() && config.certificate.is_some() && config.admin.address.is_some());
    let warnings: Vec<_> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    let [brevo, http] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(*http, "is of no use with tls = \"none\"");
    assert_eq!(*brevo, "has a meaning with provider = \"brevo\" only");
    for key in config.to_toml().lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        let named = |line: &str| {
            let line = line.trim_start_matches(['#', ' ']);
            [format!("{key} = "), format!("{key}_file = ")].iter().any(|start| line.starts_with(start))
        };
        assert!(SHIPPED_CONFIG.lines().any(named), "{key} is not in the shipped file");
    }
}

#[test]
fn contract_sample_is_valid() {
    // The sample abbreviates the hash.
    let text = include_str!("../../fixtures/contract.toml").replace("$argon2id$...", PASSWORD_HASH);
    let config = load_with_files(&text, &REFERENCED_FILES).unwrap();
    assert_eq!(config.hostname, "relay.example.com");
    assert_eq!(config.users[0].account.client_label, "odoo-prod");
    assert_eq!(config.admin.socket, Path::new("/run/mailtrail/admin.sock"));
    let ca_file = &config.upstreams[0].transport.ca_file;
    assert!(matches!(config.users[0].password, Some(Password::Hash(_))) && ca_file.is_none());
    let keys: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["sink[0]"]);
    let upstream = &config.upstreams[0];
    assert!(
        upstream.provider_api.is_some() && upstream.reconcile.is_some() && upstream.transport.api.is_none()
    );
}

const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn environment_overrides_file() {
    let overrides = [
        ("MAILTRAIL_SERVER__DATA_DIR", "/srv/mailtrail"),
        ("MAILTRAIL_LIMITS__RECIPIENTS", "7"),
        ("MAILTRAIL_HTTP__ADDRESS", "127.0.0.1:8081"),
    ];
    let config = parse_config(&(valid_config() + "[limits]\nrecipients = 5\n"), &overrides).unwrap();
    assert_eq!(config.admin.socket, Path::new("/srv/mailtrail/admin.sock"));
    assert_eq!((config.limits.max_recipients, config.http_address), (7, "127.0.0.1:8081".parse().ok()));
}

#[test]
fn reads_secrets_from_credentials_folder_then_environment() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("first"), "from-credentials\n").unwrap();
    std::fs::write(folder.path().join("first"), "not-this").unwrap();
    std::fs::write(folder.path().join("second"), "from-folder\r\n").unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let environment = BTreeMap::from([
        ("CREDENTIALS_DIRECTORY".to_owned(), credentials.to_string_lossy().into_owned()),
        ("THIRD".to_owned(), "from-environment".to_owned()),
    ]);
    let load = |text: &str| {
        let text = ["server", "listener"].map(valid_section).concat() + text + valid_section("upstream");
        config::parse(&text, &folder.path().join("mailtrail.toml"), &environment)
    };
    for (line, expected) in [
        ("password_file = \"first\"", "from-credentials"),
        ("password_file = \"second\"", "from-folder"),
        ("password = \"${THIRD}\"", "from-environment"),
    ] {
        let config = load(&format!("[[user]]\nname = \"a\"\n{line}\n")).unwrap();
        let Some(Password::Plain(password)) = &config.users[0].password else { panic!("not plain") };
        assert_eq!(password.expose(), expected);
        assert_eq!(config.warnings, []);
    }
    std::fs::write(folder.path().join("hash"), format!("{PASSWORD_HASH}\n")).unwrap();
    let config = load("[[user]]\nname = \"a\"\npassword_hash_file = \"hash\"\n").unwrap();
    assert!(matches!(config.users[0].password, Some(Password::Hash(_))) && config.warnings.is_empty());
    let faults = load("[[user]]\nname = \"a\"\npassword_file = \"empty\"\n").unwrap_err();
    assert!(faults.to_string().ends_with(":7: user[0].password_file: is empty"), "{faults}");
}

#[test]
fn client_certificates_need_listener_and_user() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("clients.pem"), "").unwrap();
    let warnings = |listener: &str, user: &str| {
        let text = [
            valid_section("server"),
            valid_section("listener"),
            listener,
            valid_section("user"),
            user,
            valid_section("upstream"),
        ]
        .concat();
        let text = text.replace("\"hunter2\"", "\"${P}\"");
        let environment = BTreeMap::from([("P".to_owned(), "hunter2".to_owned())]);
        let path = folder.path().join("mailtrail.toml");
        let config = config::parse(&text, &path, &environment).unwrap();
        config
            .warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.key, warning.message))
            .collect::<Vec<_>>()
    };
    let (trusted, certified) = ("client_ca_file = \"clients.pem\"\n", "certificates = [\"shop\"]\n");
    assert_eq!(warnings(trusted, certified), [""; 0]);
    assert_eq!(
        warnings("", certified),
        ["user: has certificates, but no [[listener]] has a client_ca_file; they have no effect"]
    );
    assert_eq!(
        warnings(trusted, ""),
        ["listener: has a client_ca_file, but no [[user]] has certificates; it has no effect"]
    );
}

#[test]
fn warns_about_risky_settings() {
    let text = valid_config()
        + "username = \"a\"\npassword = \"hunter2\"\n[admin]\naddress = \"0.0.0.0:8025\"\n"
        + "[[upstream]]\nname = \"m\"\nprovider = \"mailgun\"\nusername = \"a\"\npassword = \"${P}\"\n";
    let config = parse_config(&text, &[("P", "hunter2")]).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let literal = "stands in the file itself; password_file or \"${ENV_NAME}\" keeps it out";
    assert_eq!(
        warnings,
        [
            format!("mailtrail.toml:7: user[0].password: {literal}"),
            format!("mailtrail.toml:13: upstream[0].password: {literal}"),
            "mailtrail.toml:15: admin.address: can be reached from other machines; the metrics are public there"
                .to_owned(),
            "mailtrail.toml:16: upstream[1].webhook_signing_key: is missing; no event of this upstream can be \
             trusted or joined"
                .to_owned(),
        ]
    );
}

#[test]
fn reads_and_renders_admin_access_and_http_tls() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["http.pem", "http.key", "mail.pem", "mail.key"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let environment = BTreeMap::from([("KEY".to_owned(), "hunter2hunter2hunter2".to_owned())]);
    let base = valid_config().replace("\"hunter2\"", "\"${KEY}\"");
    let read = |more: &str| {
        config::parse(&(base.clone() + more), &folder.path().join("mailtrail.toml"), &environment).unwrap()
    };
    let output = |config: &Config| {
        config.warnings.iter().map(|one| format!("{}: {}", one.key, one.message)).collect::<Vec<_>>()
    };
    let (own, of_mail) = (
        "certificate = \"http.pem\"\nprivate_key = \"http.key\"\n",
        "[tls]\ncertificate = \"mail.pem\"\nprivate_key = \"mail.key\"\n",
    );
    for (http, own, tls, expected) in [
        ("implicit", "", "", "http: speaks TLS with a self-signed certificate, which no provider trusts"),
        ("implicit", own, "", ""),
        ("implicit", "", of_mail, ""),
        ("none", own, "", "http.certificate: is of no use with tls = \"none\""),
        ("none", "", "", ""),
    ] {
        let config = read(&format!("{tls}[http]\naddress = \"127.0.0.1:0\"\ntls = {http:?}\n{own}"));
        let output = output(&config);
        assert_eq!(output.len(), usize::from(!expected.is_empty()), "{output:?}");
        assert!(output.iter().all(|output| output.starts_with(expected)), "{output:?}");
        assert_eq!(config.to_toml().contains("http.pem"), http == "implicit" && !own.is_empty());
    }
    let config = read(
        "[admin]\naddress = \"0.0.0.0:8025\"\ntoken = \"${KEY}\"\nhosts = [\"Relay.LAN\", \"10.0.0.7\"]\n",
    );
    assert_eq!(
        output(&config),
        ["admin.address: can be reached from other machines; token and data cross the network unencrypted"]
    );
    let shown = config.to_toml();
    assert!(!shown.contains("hunter2") && shown.contains("token = \"******\""), "{shown}");
    assert!(shown.contains("hosts = [\"relay.lan\", \"10.0.0.7\"]"), "{shown}");
    assert_eq!(
        parse_config(&shown.replace("address = \"0.0.0.0", "address = \"127.0.0.1"), &[])
            .unwrap()
            .to_toml()
            .matches("******")
            .count(),
        2
    );
    let config = read("[admin]\naddress = \"127.0.0.1:8025\"\ntoken = \"hunter2\"\n");
    let short = "admin.token: is shorter than 16 characters; `openssl rand -hex 32` makes a good one";
    assert!(output(&config).iter().any(|output| output == short), "{:?}", output(&config));
    let config = read("[admin]\ntoken = \"${KEY}\"\n");
    assert_eq!(output(&config), ["admin.token: is of no use without an address; the socket asks for none"]);
}

#[test]
fn upstream_defaults_follow_provider_region_and_tls() {
    let upstream = |lines: &str| {
        let login = "username = \"a\"\npassword = \"b\"\n";
        let text = ["server", "listener", "user"].map(valid_section).concat();
        let config = parse_config(&format!("{text}[[upstream]]\nname = \"a\"\n{login}{lines}"), &[]).unwrap();
        let settings = &config.upstreams[0].transport;
        format!("{}:{} {:?}", settings.host, settings.port, settings.security)
    };
    assert_eq!(upstream("provider = \"mailgun\"\nregion = \"eu\""), "smtp.eu.mailgun.org:587 StartTls");
    assert_eq!(upstream("provider = \"brevo\"\ntls = \"implicit\""), "smtp-relay.brevo.com:465 Implicit");
    assert_eq!(upstream("provider = \"mailgun\"\nport = 465"), "smtp.mailgun.org:465 Implicit");
    assert_eq!(upstream("provider = \"plain\"\nhost = \"::1\"\ntls = \"none\""), "::1:587 None");
}

#[test]
fn api_upstream_needs_only_api_keys() {
    let read = |lines: &str| {
        let text = ["server", "listener", "user"].map(valid_section).concat()
            + "[[upstream]]\nname = \"a\"\nprovider = \"mailgun\"\ntransport = \"api\"\ndomain = \"mg.example.com\"\n"
            + lines;
        parse_config(&text, &[("KEY", "hunter2")]).unwrap()
    };
    for (lines, expected) in [
        ("", "https://api.mailgun.net/"),
        ("region = \"eu\"\n", "https://api.eu.mailgun.net/"),
        ("api_base_url = \"http://[::1]:8025\"\n", "http://[::1]:8025/"),
    ] {
        let config = read(&format!("api_key = \"${{KEY}}\"\n{lines}"));
        let api = config.upstreams[0].transport.api.as_ref().unwrap();
        assert_eq!((api.base_url.as_str(), api.key.expose()), (expected, "hunter2"));
        let shown = config.to_toml();
        assert!(!shown.contains("hunter2") && shown.contains("api_key = \"******\""), "{shown}");
        assert_eq!(parse_config(&shown, &[]).unwrap().to_toml(), shown);
    }
    let config = read("api_key = \"${KEY}\"\nusername = \"a\"\npassword = \"${KEY}\"\nport = 25\n");
    let output =
        config.warnings.iter().filter(|warning| warning.message == "has no meaning with transport = \"api\"");
    assert_eq!(output.count(), 3);
}

#[test]
fn polls_provider_api_where_key_is_configured() {
    let read = |provider: &str, lines: &str| {
        let text = ["server", "listener", "user"].map(valid_section).concat()
            + "[[upstream]]\nname = \"a\"\nhost = \"smtp.example.com\"\nusername = \"a\"\npassword = \"${KEY}\"\n"
            + &format!("webhook_signing_key = \"${{KEY}}\"\nprovider = {provider:?}\n{lines}");
        parse_config(&text, &[("KEY", "hunter2")]).unwrap()
    };
    let (key, domain) = ("api_key = \"${KEY}\"\n", "domain = \"mg.example.com\"\n");
    for (provider, lines, expected) in [
        ("mailgun", domain.to_owned(), None),
        ("mailgun", format!("{key}{domain}"), Some("https://api.mailgun.net/")),
        ("mailgun", format!("{key}{domain}region = \"eu\"\n"), Some("https://api.eu.mailgun.net/")),
        ("brevo", key.to_owned(), Some("https://api.brevo.com/")),
        ("brevo", format!("{key}api_base_url = \"http://127.0.0.1:1\"\n"), Some("http://127.0.0.1:1/")),
    ] {
        let config = read(provider, &lines);
        let upstream = &config.upstreams[0];
        assert_eq!(
            upstream.provider_api.as_ref().map(|account| account.base_url.as_str()),
            expected,
            "{lines}"
        );
        assert_eq!(upstream.reconcile.is_some(), expected.is_some());
        let shown = config.to_toml();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(parse_config(&shown, &[]).unwrap().to_toml(), shown);
    }
    let lines =
        format!("{key}{domain}[upstream.reconcile]\nevery = \"1h\"\napi = \"logs\"\nreach = \"5d\"\n");
    let shown = read("mailgun", &lines).to_toml();
    assert!(shown.contains("enabled = true\nevery = \"1h\"\napi = \"logs\"\nreach = \"5d\"\n"), "{shown}");
    let off = read("mailgun", &format!("{key}{domain}[upstream.reconcile]\nenabled = false\n"));
    assert!(off.upstreams[0].provider_api.is_some() && off.upstreams[0].reconcile.is_none());
    assert_eq!(parse_config(&off.to_toml(), &[]).unwrap().to_toml(), off.to_toml());
    let output = |config: Config| -> Vec<_> {
        let ours = config.warnings.iter().filter(|warning| warning.key.starts_with("upstream"));
        ours.map(|warning| format!("{}: {}", warning.key, warning.message)).collect()
    };
    for (config, expected) in [
        (
            read("mailgun", key),
            "upstream[0].api_key: has no effect without domain: the provider's events cannot be polled",
        ),
        (read("plain", key), "upstream[0].api_key: has no meaning with provider = \"plain\""),
        (
            read("mailgun", "[upstream.reconcile]\nevery = \"1h\"\n"),
            "upstream[0].reconcile.every: has no meaning without api_key",
        ),
        (
            read("mailgun", "api_base_url = \"https://api.example.com\"\n"),
            "upstream[0].api_base_url: has no meaning without api_key",
        ),
    ] {
        assert_eq!(output(config), [expected]);
    }
}

#[test]
fn rendered_config_masks_secrets_and_can_be_parsed() {
    let text = valid_config()
        + "username = \"a \\\"b\\\"\"\npassword = \"hunter2\"\nwebhook_signing_key = [\"hunter2\", \"${KEY}\"]\n";
    let config = parse_config(&text, &[("KEY", "hunter2")]).unwrap();
    assert!(!config.to_toml().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    assert_eq!(parse_config(&config.to_toml(), &[]).unwrap().to_toml(), config.to_toml());
    let hashed = text.replacen("password = \"hunter2\"", &format!("password_hash = \"{PASSWORD_HASH}\""), 1);
    let config = parse_config(&hashed, &[("KEY", "hunter2")]).unwrap();
    assert!(!config.to_toml().contains("argon2") && !format!("{config:?}").contains("argon2"));
}

#[test]
fn reads_and_renders_logins_and_rates() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("clients.pem"), "").unwrap();
    let text = valid_section("server").to_owned()
        + "[[listener]]\naddress = \"127.0.0.1:1\"\nclient_ca_file = \"clients.pem\"\n"
        + "[[user]]\nname = \"shop\"\ncertificates = [\"Shop.example.com\", \"a@example.com\"]\nrate = \"5/h\"\nquota = \"9/hour\"\n"
        + "[limits]\nlogin_failures = 0\nlogin_lockout = \"1h\"\nrate_per_ip = \"7/day\"\n"
        + valid_section("upstream");
    let path = folder.path().join("mailtrail.toml");
    let config = config::parse(&text, &path, &BTreeMap::new()).unwrap();
    assert_eq!((config.users[0].password.is_none(), &config.warnings[..]), (true, &[][..]));
    let shown = config.to_toml();
    for line in [
        &format!("client_ca_file = {:?}", folder.path().join("clients.pem")),
        "certificates = [\"shop.example.com\", \"a@example.com\"]",
        "rate = \"5/h\"",
        "quota = \"9/hour\"",
        "login_failures = 0",
        "login_window = \"10min\"",
        "login_lockout = \"1h\"",
        "rate_per_ip = \"7/day\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert_eq!(config::parse(&shown, &path, &BTreeMap::new()).unwrap().to_toml(), shown);
}

#[test]
fn reads_and_renders_webhook_sources() {
    let text = valid_config()
        + "[[upstream]]\nname = \"brevo\"\nprovider = \"brevo\"\nusername = \"a\"\npassword = \"${KEY}\"\n"
        + "webhook_token = [\"${KEY}\", \"${KEY}\"]\nwebhook_header = \"X-Token\"\nwebhook_username = \"mt\"\n"
        + "webhook_password = \"${KEY}\"\n"
        + "[[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = \"${KEY}\"\nupstream = \"plain\"\n"
        + "[[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\nsecret = [\"${KEY}\", \"${KEY}\"]\n"
        + "[[source]]\nname = \"more\"\nkind = \"activecampaign\"\nsecret = \"${KEY}\"\nsuppress = [\"bounce\"]\n"
        + "[http]\naddress = \"127.0.0.1:0\"\nproxies = [\"10.0.0.7\"]\nconnections = 5\n";
    let config = parse_config(&text, &[("KEY", "hunter2hunter2hunter2")]).unwrap();
    assert_eq!(config.sources[0].upstream(), "plain");
    let shown = config.to_toml();
    assert!(!shown.contains("hunter2hunter2"), "{shown}");
    for line in [
        "webhook_token = [\"******\", \"******\"]",
        "webhook_header = \"X-Token\"",
        "webhook_username = \"mt\"",
        "webhook_password = \"******\"",
        "kind = \"generic\"",
        "kind = \"activecampaign\"",
        "suppress = [\"unsubscribe\"]",
        "suppress = [\"bounce\"]",
        "upstream = \"plain\"",
        "proxies = [\"10.0.0.7/32\"]",
        "connections = 5",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert_eq!(parse_config(&shown, &[]).unwrap().to_toml(), shown);
    for (old, new, output) in [
        ("suppress = [\"bounce\"]", "suppress = [\"open\"]", "\"unsubscribe\" or \"bounce\""),
        ("upstream = \"plain\"", "suppress = []", "suppress: belongs to kind = \"activecampaign\""),
    ] {
        let faults = parse_config(&text.replace(old, new), &[("KEY", "hunter2hunter2hunter2")])
            .unwrap_err()
            .to_string();
        assert!(faults.contains(output), "{faults}");
    }
}

#[test]
fn reads_and_renders_suppression_sync_interval() {
    let read = |line: &str| parse_config(&format!("{}[suppression]\n{line}\n", valid_config()), &[]);
    for (line, expected) in [
        ("", Some(86_400)),
        ("sync = \"24h\"", Some(86_400)),
        ("sync = \"1h\"", Some(3600)),
        ("sync = \"off\"", None),
    ] {
        let config = read(line).unwrap();
        assert_eq!(config.suppression_sync_interval.map(|every| every.as_secs()), expected, "{line}");
        let shown = config.to_toml();
        assert_eq!(
            parse_config(&shown, &[]).unwrap().suppression_sync_interval,
            config.suppression_sync_interval,
            "{shown}"
        );
    }
    for line in ["sync = \"59min\"", "sync = \"31d\"", "sync = \"never\""] {
        let faults = read(line).unwrap_err().to_string();
        assert!(faults.contains("\"off\" or a duration from \"1h\" to \"30d\""), "{faults}");
    }
}

#[test]
fn reads_and_renders_alarm_recipients() {
    let text = valid_config()
        + "[alarms]\nwebhook_url = \"https://hooks.example.com/a?key=hunter2\"\nwebhook_secret = \"${KEY}\"\n"
        + "mail_to = [\"ops@example.com\"]\nmail_from = \"alarms@example.com\"\nmail_upstream = \"plain\"\n"
        + "disk = \"5GiB\"\nafter = \"0s\"\n";
    let config = parse_config(&text, &[("KEY", "hunter2")]).unwrap();
    let mail = config.alarm_notifications.email.as_ref().unwrap();
    assert_eq!(
        (mail.recipients[0].as_str(), mail.preferred_upstream.as_deref()),
        ("ops@example.com", Some("plain"))
    );
    let (shown, herald) = (config.to_toml(), &config.alarm_notifications);
    assert_eq!((herald.delay.as_secs(), herald.repeat_interval.as_secs()), (0, 86_400));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(parse_config(&shown, &[]).unwrap().to_toml(), shown);
}

#[test]
fn rendered_config_hides_secret_parts_of_webhook_url() {
    for url in [
        "https://hooks.example.com/services/T1/hunter2",
        "https://hooks.example.com/hunter2/",
        "https://hunter2@hooks.example.com",
        "https://a:hunter2@hooks.example.com/b",
        "https://hooks.example.com?hunter2",
        "https://hooks.example.com/#hunter2",
        "https://hooks.example.com/%68unter2",
    ] {
        let endpoint = format!("\"{url}\"\nsecret = \"s\"\n");
        let text = valid_config()
            + &format!("[[sink]]\nname = \"chat\"\nkind = \"http\"\nurl = {endpoint}")
            + &format!(
                "[[inbound.target]]\nname = \"in\"\ndeliver = \"http\"\nurl = {endpoint}recipients = [\"*\"]\n"
            )
            + &format!("[alarms]\nwebhook_url = \"{url}\"\nwebhook_secret = \"s\"\n");
        let shown = parse_config(&text, &[]).unwrap().to_toml();
        assert_eq!(shown.matches("hooks.example.com").count(), 3, "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("%68unter2"), "{shown}");
        assert_eq!(parse_config(&shown, &[]).unwrap().to_toml(), shown);
    }
    for key in [
        "[[sink]]\nname = \"chat\"\nkind = \"http\"\nsecret = \"s\"\nurl",
        "[alarms]\nwebhook_secret = \"s\"\nwebhook_url",
    ] {
        let text = valid_config() + &format!("{key} = \"htps://hooks.example.com/hunter2\"\n");
        let faults = parse_config(&text, &[]).unwrap_err().to_string();
        assert!(
            faults.contains("is not an http:// or https:// address") && !faults.contains("hunter2"),
            "{faults}"
        );
    }
}

#[test]
fn syntax_errors_quote_no_secret() {
    for value in
        ["\"hunter2", "'hunter2", "hunter2\"", "\"\\hunter2\"", "[hunter2", "{ hunter2 }", "\"\"\"hunter2"]
    {
        let text = format!("[[user]]\nname = \"a\"\npassword = {value}\n");
        let faults = parse_config(&text, &[]).unwrap_err().to_string();
        assert!(faults.contains(": not TOML: ") && !faults.contains("hunter2"), "{faults}");
    }
}

#[test]
fn reports_missing_config_file() {
    let faults = config::load(Path::new("no-such-folder/mailtrail.toml"), &BTreeMap::new()).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "no-such-folder/mailtrail.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn odoo_sink_disables_dsns_unless_configured() {
    let sink = |way: &str| {
        format!(
            "[[sink]]\nkind = \"odoo\"\nurl = \"https://odoo.example.com\"\ndatabase = \"prod\"\nusername = \"bot\"\n\
             api_key = \"${{KEY}}\"\n{way}\n"
        )
    };
    let file = "[[sink]]\nkind = \"file\"\npath = \"events.jsonl\"\n".to_owned();
    for (more, expected) in [
        (String::new(), "sender"),
        (file, "sender"),
        (sink(""), "nobody"),
        (sink("way = \"report\""), "nobody"),
        (sink("") + "[reports]\nfailures = \"sender\"\n", "sender"),
        (sink("") + "[reports]\nfailures = \"nobody\"\n", "nobody"),
    ] {
        let text = valid_config() + &more;
        let config = parse_config(&text, &[("KEY", "hunter2hunter2hunter2")]).unwrap();
        let shown = config.to_toml();
        assert!(shown.contains(&format!("[reports]\nfailures = \"{expected}\"")), "{more}: {shown}");
        assert_eq!(config.send_dsns, expected == "sender", "{more}");
        let warned =
            config.warnings.iter().any(|warning| warning.message.contains("a sink reports failures to Odoo"));
        assert_eq!(warned, more.contains("odoo") && config.send_dsns, "{more}");
    }
}
