use crate::cli::{CliError, Context, print_line};
use crate::logging;
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox;
use mailtrail_sandbox::{FaultInjection, ProviderProfile};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct SandboxArgs {
    /// Provider to emulate: mailgun or brevo
    #[arg(long, default_value = "mailgun", value_name = "PROVIDER")]
    provider: ProviderProfile,
    /// Address of the SMTP listener
    #[arg(long, default_value = "127.0.0.1:2587", value_name = "ADDRESS")]
    smtp: SocketAddr,
    /// Address of the API: Mailgun's messages, events, logs, suppressions, webhooks and domain, or Brevo's statistics,
    /// blocked contacts, webhooks and account; PUT /sandbox/weather, POST /sandbox/contacts
    #[arg(long, default_value = "127.0.0.1:2588", value_name = "ADDRESS")]
    api: SocketAddr,
    /// API key
    #[arg(long, default_value = "sandbox", env = "MAILTRAIL_SANDBOX_API_KEY", hide_env_values = true)]
    api_key: String,
    /// URL for the sandbox's events; Brevo uses the URL's login, otherwise a bearer token
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// URL that receives ActiveCampaign's contact webhooks, sent on POST /sandbox/contacts
    #[arg(long, value_name = "URL")]
    activecampaign: Option<String>,
    /// Sending domain
    #[arg(long, default_value = "sandbox.example.com")]
    domain: String,
    /// SMTP login
    #[arg(long, default_value = "postmaster@sandbox.example.com")]
    username: String,
    /// SMTP password; an environment variable keeps it out of the process list
    #[arg(long, default_value = "sandbox", env = "MAILTRAIL_SANDBOX_PASSWORD", hide_env_values = true)]
    password: String,
    /// Signing key of Mailgun's events; Brevo's bearer token
    #[arg(long, default_value = "sandbox", env = "MAILTRAIL_SANDBOX_SIGNING_KEY", hide_env_values = true)]
    signing_key: String,
    /// Share of webhooks that are lost (0 to 1)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    lose_webhooks: f64,
    /// Delay of each webhook in seconds
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    delay_webhooks: u32,
    /// Delay of every second event in the Events API, in seconds
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    late_events: u32,
    /// Factor for all delays of the provider
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
    /// Directory of its certificate, for `ca_file` of clients
    #[arg(long, default_value = "mailtrail-sandbox/sandbox", value_name = "FOLDER")]
    certificate: PathBuf,
}

pub async fn run(context: &Context, arguments: SandboxArgs) -> Result<(), CliError> {
    let form =
        logging::LogOutput::Text { use_color: context.color_choice.is_enabled_for(&std::io::stderr()) };
    let _log = logging::init(tracing::Level::INFO, form, logging::AddressRedaction::Full);
    let failed = |error: &dyn std::fmt::Display| CliError::Other(error.to_string());
    let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
        profile: arguments.provider,
        smtp_address: arguments.smtp,
        api_address: arguments.api,
        api_key: Secret::new(arguments.api_key),
        domain: arguments.domain,
        username: arguments.username,
        password: Secret::new(arguments.password),
        signing_key: Secret::new(arguments.signing_key),
        webhook_url: arguments.webhook,
        time_scale: arguments.pace,
        faults: FaultInjection {
            lose: arguments.lose_webhooks,
            delay: arguments.delay_webhooks,
            late: arguments.late_events,
            ..FaultInjection::default()
        },
        clock: Clock::System,
        tls: tls::load_self_signed(&arguments.certificate, "localhost").map_err(|error| failed(&error))?,
    });
    let sandbox = sandbox.await.map_err(|error| failed(&error))?;
    if let Some(url) = arguments.activecampaign {
        sandbox.set_contact_webhook_url(url);
    }
    let certificate = arguments.certificate.join("relay.pem");
    print_line(context.style.bold(&format!("The sandbox takes mail on {}", sandbox.smtp_address())));
    print_line(format!("Its API is http://{}", sandbox.api_address()));
    print_line(format!(
        "Its certificate is {}. The local part of a recipient selects the scenario:",
        certificate.display()
    ));
    let fates: Vec<_> = mailtrail_sandbox::Scenario::ALL.iter().map(|scenario| scenario.as_str()).collect();
    print_line(format!("  {}", fates.join("  ")));
    let waited = tokio::signal::ctrl_c().await;
    sandbox.stop().await;
    waited.map_err(|error| failed(&error))
}
