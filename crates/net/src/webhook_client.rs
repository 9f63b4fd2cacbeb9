//! Signed POST requests to endpoints that the operator configures, to public addresses only unless permitted.

use crate::host_addresses::PreferredResolver;
use crate::{error_chain, odoo, tls};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Secret;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, RequestBuilder, Url};
use sha2::Sha256;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Where something is posted, with the headers of Standard Webhooks 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEndpoint {
    /// URL of the endpoint.
    pub url: Url,
    /// Signing secrets, two during a rotation; each adds a signature.
    pub secrets: Vec<Secret>,
    /// Whether the endpoint may be at a private, local or otherwise not public address.
    pub allow_private_address: bool,
    /// How long a request and its answer may take.
    pub timeout: Duration,
}

/// An endpoint, and how it is reached.
pub struct WebhookClient {
    endpoint: WebhookEndpoint,
    client: Option<Client>,
}

impl WebhookClient {
    /// Nothing is sent yet.
    pub fn new(endpoint: WebhookEndpoint) -> Self {
        Self { endpoint, client: None }
    }

    /// Starts the signature of a message with this id and the current time.
    pub fn start_signature(&self, id: &str) -> WebhookSigner {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        WebhookSigner::new(&self.endpoint.secrets, id, &seconds.to_string())
    }

    /// Builds a request with the three headers; the caller adds the signed body. The error is the reason for which
    /// there is no client.
    pub fn build_request(&mut self, signing: WebhookSigner) -> Result<RequestBuilder, String> {
        let client = match self.client.take() {
            Some(client) => client,
            None => build_http_client(&self.endpoint)?,
        };
        let request = self.client.insert(client).post(self.endpoint.url.clone());
        Ok(request
            .header("webhook-id", &signing.id)
            .header("webhook-timestamp", &signing.timestamp)
            .header("webhook-signature", signing.finish()))
    }
}

/// Builds a client without redirects and proxies; without `allow_private` it resolves to public addresses only.
fn build_http_client(settings: &WebhookEndpoint) -> Result<Client, String> {
    let WebhookEndpoint { url, allow_private_address, timeout, .. } = settings;
    if !allow_private_address
        && let Some(address) = ip_literal(url)
        && !is_public_address(address)
    {
        return Err(format!("{address} is no public address; allow_private = true allows it"));
    }
    let tls = tls::build_client_config(None).map_err(|error| error.to_string())?;
    let resolver = PreferredResolver::new(url, Arc::default());
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(*timeout)
        .no_proxy();
    let builder = if *allow_private_address {
        builder.dns_resolver(Arc::new(resolver))
    } else {
        builder.dns_resolver(Arc::new(PublicAddressResolver(resolver)))
    };
    builder.build().map_err(|error| error.to_string())
}

/// Builds a client of an Odoo that has not logged in. The error is the reason for which there is none.
pub fn build_odoo_client(settings: &odoo::OdooConnection) -> Result<odoo::OdooClient, String> {
    let tls = tls::build_client_config(settings.ca_file.as_deref()).map_err(|error| error.to_string())?;
    odoo::OdooClient::new(settings.clone(), tls).map_err(|fault| fault.to_string())
}

/// Returns when a delivery takes too long during shutdown, or while another configuration waits for its turn.
pub async fn shutdown_grace_elapsed(stopping: &CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}

/// Returns the innermost cause of a request error.
pub fn request_error_text(error: reqwest::Error) -> String {
    format!("it cannot be reached: {}", error_chain::root_cause(&error.without_url()))
}

/// The `webhook-signature` of a request (Standard Webhooks 1.0), made while its body passes by.
pub struct WebhookSigner {
    id: String,
    timestamp: String,
    macs: Vec<Hmac<Sha256>>,
}

impl WebhookSigner {
    /// For a request with that `webhook-id` and `webhook-timestamp`; each of `secrets` signs. One that begins with
    /// `whsec_` is base64 itself.
    pub fn new(secrets: &[Secret], id: &str, timestamp: &str) -> Self {
        let mac = |secret: &Secret| {
            let text = secret.expose();
            let key = text.strip_prefix("whsec_").and_then(|key| BASE64_STANDARD.decode(key).ok());
            let key = key.unwrap_or_else(|| text.as_bytes().to_vec());
            let mac =
                Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length (RFC 2104)");
            mac.chain_update(format!("{id}.{timestamp}."))
        };
        Self { id: id.to_owned(), timestamp: timestamp.to_owned(), macs: secrets.iter().map(mac).collect() }
    }

    /// A piece of the body passes by.
    pub fn update(&mut self, piece: &[u8]) {
        self.macs.iter_mut().for_each(|mac| mac.update(piece));
    }

    /// Value of the signature header.
    pub fn finish(&self) -> String {
        let sign = |mac: &Hmac<Sha256>| {
            format!("v1,{}", BASE64_STANDARD.encode(mac.clone().finalize().into_bytes()))
        };
        self.macs.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

/// The address in a URL that has no name.
fn ip_literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Resolver that returns public addresses only, checked at each connection.
struct PublicAddressResolver(PreferredResolver);

impl Resolve for PublicAddressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let mut public = resolver.find(&name, is_public_address).await?.peekable();
            if public.peek().is_none() {
                let text =
                    format!("{} has no public address; allow_private = true allows others", name.as_str());
                return Err(text.into());
            }
            Ok(Box::new(public) as Addrs)
        })
    }
}

/// Whether an address leads to anywhere in the public network (RFC 6890).
fn is_public_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmarking = a == 198 && (b == 18 || b == 19);
            let protocols = a == 192 && b == 0 && c == 0;
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || v4.is_multicast()
                || shared
                || benchmarking
                || protocols
                || a == 0
                || a >= 240)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let documentation = first == 0x2001 && v6.segments()[1] == 0xdb8;
            // Addresses that hold another one: 6to4 and NAT64.
            let wraps = first == 0x2002 || (first == 0x64 && v6.segments()[1] == 0xff9b);
            (0x2000..0x4000).contains(&first) && !documentation && !wraps
        }
    }
}

/// How long such a delivery may go on.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_specification_example() {
        // The example of the specification.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let mut signing = WebhookSigner::new(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        ["{\"test\": ", "2432232314}"].iter().for_each(|piece| signing.update(piece.as_bytes()));
        assert_eq!(signing.finish(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn recognizes_public_addresses() {
        for text in ["93.184.216.34", "2606:2800:220:1::1", "100.128.0.1", "198.20.0.1"] {
            assert!(is_public_address(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "198.18.0.1",
            "192.0.0.1",
        ] {
            assert!(!is_public_address(text.parse().unwrap()), "{text}");
        }
    }
}
