//! The real program with the sandbox as its provider.

use crate::relay_process::{CommandOutput, RelayProcess};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox};
use reqwest::Method;
use serde_json::Value;
use std::net::SocketAddr;

pub struct SandboxHarness {
    pub process: RelayProcess,
    pub sandbox: Sandbox,
    pub configuration: String,
    profile: ProviderProfile,
}

impl SandboxHarness {
    /// Prepares a relay, not started, and a sandbox that posts all events to it.
    pub async fn new(profile: ProviderProfile) -> Self {
        // The files are next to the configuration; its directory exists only now.
        let process = RelayProcess::with_configuration(|_, _| String::new());
        let here = process.directory();
        for (name, secret) in [("key", API_KEY), ("proof", WEBHOOK_SECRET)] {
            std::fs::write(here.join(name), secret).unwrap();
        }
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            profile,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new(API_KEY),
            domain: DOMAIN.into(),
            username: "up@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new(WEBHOOK_SECRET),
            webhook_url: Some(format!("http://{}/webhooks/up", process.address(1))),
            time_scale: 0.0,
            faults: FaultInjection::default(),
            clock: Clock::System,
            tls: tls::load_self_signed(&here.join("sandbox"), "localhost").unwrap(),
        });
        let sandbox = sandbox.await.unwrap();
        let configuration = configuration(profile, &process, &sandbox);
        process.write_configuration(&configuration);
        Self { process, sandbox, configuration, profile }
    }

    /// Sends a request to the provider's API.
    pub async fn call_api(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let tls = tls::build_client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        let request = client.request(method, format!("http://{}{path}", self.sandbox.api_address()));
        let request = match self.profile {
            ProviderProfile::Mailgun => request.basic_auth("api", Some(API_KEY)),
            ProviderProfile::Brevo => request.header("api-key", API_KEY),
        };
        let request = match (body, self.profile) {
            (None, _) => request,
            (Some(body), ProviderProfile::Brevo) => request.json(&body),
            (Some(body), ProviderProfile::Mailgun) => request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body.as_str().unwrap().to_owned()),
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    /// Runs a command and checks that its output contains no secret.
    pub async fn run_command(&self, arguments: &[&str]) -> CommandOutput {
        let output = self.process.run_command(arguments).await;
        for secret in [API_KEY, WEBHOOK_SECRET] {
            assert!(
                !output.stdout.contains(secret) && !output.stderr.contains(secret),
                "{} {}",
                output.stdout,
                output.stderr
            );
        }
        output
    }
}

fn configuration(face: ProviderProfile, process: &RelayProcess, sandbox: &Sandbox) -> String {
    let (provider, proof) = match face {
        ProviderProfile::Mailgun => ("mailgun", "webhook_signing_key_file"),
        ProviderProfile::Brevo => ("brevo", "webhook_token_file"),
    };
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "{data}"
[[listener]]
address = "{listener}"
tls = "starttls"
auth = "required"
[[user]]
name = "odoo"
password = "odoo"
[[upstream]]
name = "up"
provider = "{provider}"
domain = "{DOMAIN}"
host = "127.0.0.1"
port = {port}
tls = "none"
username = "up@mg.example.com"
password = "pw"
{proof} = "proof"
api_key_file = "key"
api_base_url = "http://{api}"
[upstream.reconcile]
enabled = false
[http]
address = "{http}"
"#,
        data = process.data_dir().display(),
        listener = process.address(0),
        port = sandbox.smtp_address().port(),
        api = sandbox.api_address(),
        http = process.address(1),
    )
}

pub const DOMAIN: &str = "mg.example.com";
pub const API_KEY: &str = "key-of-the-account";
pub const WEBHOOK_SECRET: &str = "proof-of-the-provider";
