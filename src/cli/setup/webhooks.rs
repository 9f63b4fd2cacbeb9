//! Registration of webhooks at a provider.

use crate::cli::setup::change::print_change;
use crate::cli::{CliError, Context, config_source, print_json, print_line};
use crate::config::{Config, HttpTls, Upstream};
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{ApiError, DesiredWebhook, ProviderApi, WebhookChange, WebhookChangeKind};
use mailtrail_net::tls;
use mailtrail_trail::provider::Provider;
use reqwest::Url;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Requires the upstream's api_key. Webhooks that are already correct are kept, so the command may be repeated.
#[derive(Debug, clap::Args)]
pub struct SetupWebhooksArgs {
    /// URL at which the provider reaches this relay, such as https://relay.example.com; the path /webhooks/<upstream>
    /// is added if it is missing
    #[arg(long)]
    url: Url,
    /// [[upstream]] to register [default: the only one of this provider]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Remove the webhooks with this URL
    #[arg(long)]
    remove: bool,
    /// Only list the changes
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(
    context: &Context,
    provider: Provider,
    arguments: &SetupWebhooksArgs,
) -> Result<(), CliError> {
    let config = config_source::load_config(context)?;
    let upstream = select_upstream(&config, provider, arguments.upstream.as_deref())?;
    let name = &*upstream.transport.name;
    let url = webhook_url(&arguments.url, name).map_err(CliError::Usage)?;
    let account = connect_provider_api(upstream)?;
    let changes = match arguments.remove {
        true => account.plan_removal(&url).await,
        false => account.plan_registration(DesiredWebhook { url: &url, auth: &upstream.webhook_auth }).await,
    };
    for change in changes.map_err(|fault| to_cli_error(&fault))? {
        if !arguments.dry_run {
            account.apply_change(&change).await.map_err(|fault| to_cli_error(&fault))?;
        }
        print_webhook_change(context, arguments, &change);
    }
    let elsewhere = account.fetch_webhooks().await.map_err(|fault| to_cli_error(&fault))?;
    let elsewhere =
        elsewhere.iter().filter(|webhook| webhook.targets_upstream(name) && !webhook.targets_url(&url));
    let elsewhere: BTreeSet<_> = elsewhere.map(|webhook| webhook.redacted_url()).collect();
    let mut remains: Vec<_> = elsewhere.iter().map(|url| describe_other_webhook(url)).collect();
    if !arguments.remove {
        remains.extend(manual_steps(&config, upstream, &url));
    }
    for text in remains {
        if context.json {
            print_json(&json!({ "remains": text }));
        } else {
            print_line(format!("to do: {text}"));
        }
    }
    Ok(())
}

/// Selects the upstream by name, or the only one of the provider.
fn select_upstream<'a>(
    config: &'a Config,
    provider: Provider,
    name: Option<&str>,
) -> Result<&'a Upstream, CliError> {
    let of_provider = config.upstreams.iter().filter(|upstream| upstream.transport.provider == provider);
    let mut fitting = of_provider.filter(|upstream| name.is_none_or(|name| upstream.transport.name == name));
    let word = match provider {
        Provider::Brevo => "brevo",
        Provider::Mailgun | Provider::Plain => "mailgun",
    };
    match (fitting.next(), fitting.next(), name) {
        (Some(only), None, _) => Ok(only),
        (Some(_), Some(_), _) => Err(CliError::Usage(format!(
            "there are several [[upstream]]s with provider = \"{word}\"; name one: --upstream"
        ))),
        (None, _, Some(name)) => Err(CliError::Usage(format!(
            "there is no [[upstream]] {name:?} with provider = \"{word}\"; `mailtrail config show` lists them"
        ))),
        (None, _, None) => Err(CliError::Usage(format!(
            "there is no [[upstream]] with provider = \"{word}\"; configure one"
        ))),
    }
}

/// Returns the URL for the webhooks of an upstream. Plain HTTP is accepted for loopback only.
fn webhook_url(named: &Url, upstream: &str) -> Result<Url, String> {
    let host = named.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if !(named.scheme() == "https" || (named.scheme() == "http" && local)) {
        return Err("--url must begin with https://, http:// is for this machine only".to_owned());
    }
    if !named.username().is_empty()
        || named.password().is_some()
        || named.query().is_some()
        || named.fragment().is_some()
    {
        return Err("--url takes no login, query or fragment; the webhook credentials come from the \
                    configuration"
            .to_owned());
    }
    let mut url = named.clone();
    let (path, ours) = (named.path().trim_end_matches('/'), format!("/webhooks/{upstream}"));
    url.set_path(&if path.ends_with(&ours) { path.to_owned() } else { format!("{path}{ours}") });
    Ok(url)
}

fn connect_provider_api(upstream: &Upstream) -> Result<ProviderApi, CliError> {
    let name = &upstream.transport.name;
    let Some(settings) = upstream.provider_api.clone() else {
        let needed = match (upstream.transport.provider, &upstream.transport.domain) {
            (Provider::Mailgun, None) => "domain and api_key_file",
            _ => "api_key_file",
        };
        let text = format!("upstream {name}: registering webhooks requires an API key; set {needed}");
        return Err(CliError::Configuration(text));
    };
    let trusted = tls::build_connector(upstream.transport.ca_file.as_deref());
    let trusted = trusted.map_err(|error| CliError::Configuration(error.to_string()))?;
    ProviderApi::new(settings, &trusted, Clock::System).map_err(|fault| to_cli_error(&fault))
}

fn to_cli_error(fault: &ApiError) -> CliError {
    let remedy = match fault {
        ApiError::Rejected { .. } => "; correct the named value, or remove unused webhooks at the provider",
        _ => "",
    };
    CliError::Other(format!("{fault}{remedy}"))
}

fn print_webhook_change(context: &Context, arguments: &SetupWebhooksArgs, change: &WebhookChange) {
    let WebhookChange { kind, id, url, details, .. } = change;
    let more = match kind {
        WebhookChangeKind::Created | WebhookChangeKind::Removed => format!("{url}: {}", details.join(", ")),
        WebhookChangeKind::Updated => format!("{url}: now also {}", details.join(", ")),
        WebhookChangeKind::Unchanged => format!("{url}: registered for every event; nothing to do"),
        WebhookChangeKind::Absent => format!("{url}: nothing to do"),
    };
    let told = json!({ "done": kind.as_str(), "what": "webhook", "id": id, "name": url, "changed": details });
    print_change(context.json, arguments.dry_run, &told, &more);
}

fn describe_other_webhook(url: &str) -> String {
    format!("{url} is also registered and was not changed; to remove it, repeat with --remove --url {url}")
}

/// Steps that the provider's API does not offer.
fn manual_steps(config: &Config, upstream: &Upstream, url: &Url) -> Vec<String> {
    let name = &upstream.transport.name;
    let mut remains = Vec::new();
    match config.http_address {
        None => remains.push("set `address` in [http], so that webhooks are received".to_owned()),
        Some(here) if config.http_tls != HttpTls::None => remains.push(format!(
            "{} resolves to {here}, and the certificate there is issued for that name by a public CA",
            url.authority(),
        )),
        Some(here) if url.scheme() == "https" => remains.push(format!(
            "the web server of {} forwards {} to http://{here}/webhooks/{name}, with a certificate of a public CA",
            url.host_str().unwrap_or_default(),
            url.path(),
        )),
        Some(_) => {}
    }
    if upstream.transport.provider == Provider::Mailgun && upstream.webhook_signing_keys.is_empty() {
        remains
            .push("set webhook_signing_key_file: without Mailgun's key every webhook is rejected".to_owned());
    }
    remains.push("check with `mailtrail doctor`, try it with `mailtrail send-test ADDRESS`".to_owned());
    remains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_webhook_path_to_base_url() {
        for (named, expected) in [
            ("https://relay.example.com", Some("https://relay.example.com/webhooks/up")),
            ("https://example.com/mail/", Some("https://example.com/mail/webhooks/up")),
            ("https://relay.example.com/webhooks/up", Some("https://relay.example.com/webhooks/up")),
            ("http://127.0.0.1:8080/", Some("http://127.0.0.1:8080/webhooks/up")),
            ("http://[::1]:8080/", Some("http://[::1]:8080/webhooks/up")),
            ("http://relay.example.com", None),
            ("ftp://127.0.0.1", None),
            ("https://a:b@relay.example.com", None),
            ("https://relay.example.com/?a=b", None),
        ] {
            let found = webhook_url(&named.parse().unwrap(), "up").ok().map(String::from);
            assert_eq!(found.as_deref(), expected, "{named}");
        }
    }
}
