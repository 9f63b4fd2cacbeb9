//! Signed JSON by POST, with the headers of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`,
//! `webhook-signature`.

use super::{Delivery, Item};
use crate::secret::Secret;
use crate::tls;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{StatusCode, Url};
use sha2::Sha256;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where events are posted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSettings {
    /// The endpoint.
    pub url: Url,
    /// What they are signed with, two during a rotation; every one signs.
    pub secrets: Vec<Secret>,
    /// Whether the endpoint may be at a private, local or otherwise not public address.
    pub allow_private: bool,
    /// How long an answer may take. Default 15 s.
    pub timeout: Duration,
}

pub struct HttpSink {
    settings: HttpSettings,
    client: Option<reqwest::Client>,
}

/// What an answer means.
enum Verdict {
    Taken,
    Later(String),
}

impl HttpSink {
    pub fn new(settings: HttpSettings) -> Self {
        Self { settings, client: None }
    }

    /// One after the other; the first that is not taken holds up the others.
    pub async fn deliver(&mut self, items: &[Item]) -> Delivery {
        for (done, item) in items.iter().enumerate() {
            if let Verdict::Later(why) = self.post(item).await {
                return Delivery { done, later: Some(why), ..Delivery::default() };
            }
        }
        Delivery { done: items.len(), ..Delivery::default() }
    }

    async fn post(&mut self, item: &Item) -> Verdict {
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Verdict::Later(why),
        };
        let (id, body) = (item.id(), item.json());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let signed = format!("{id}.{seconds}.{body}");
        let signatures: Vec<_> = self.settings.secrets.iter().map(|secret| sign(secret, &signed)).collect();
        let request = client
            .post(self.settings.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signatures.join(" "));
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Verdict::Taken,
            // Its maker says so: nobody wants this any more.
            Ok(answer) if answer.status() == StatusCode::GONE => {
                Verdict::Later("it answers 410: take the sink out of the configuration".to_owned())
            }
            Ok(answer) => Verdict::Later(format!("it answers {}", answer.status())),
            Err(error) => Verdict::Later(cause(&error.without_url())),
        }
    }

    fn client(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        if !self.settings.allow_private
            && let Some(address) = literal(&self.settings.url)
            && !is_public(address)
        {
            return Err(format!("{address} is no public address; allow_private = true allows it"));
        }
        let tls = tls::client_config(None).map_err(|error| error.to_string())?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(self.settings.timeout)
            .no_proxy();
        if !self.settings.allow_private {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        let client = builder.build().map_err(|error| error.to_string())?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

/// `v1,` and the base64 of HMAC-SHA256. A secret that begins with `whsec_` is base64 itself.
fn sign(secret: &Secret, signed: &str) -> String {
    let text = secret.reveal();
    let key = text.strip_prefix("whsec_").and_then(|key| BASE64_STANDARD.decode(key).ok());
    let key = key.unwrap_or_else(|| text.as_bytes().to_vec());
    let mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length (RFC 2104)");
    format!("v1,{}", BASE64_STANDARD.encode(mac.chain_update(signed).finalize().into_bytes()))
}

/// The innermost cause says most.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    format!("it cannot be reached: {innermost}")
}

/// The address in a URL that has no name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Finds public addresses only, whatever the name says: it is looked at when it is used.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                let text =
                    format!("{} has no public address; allow_private = true allows others", name.as_str());
                return Err(text.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address leads to anywhere in the public network (RFC 6890).
fn is_public(address: IpAddr) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // The example of the specification.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(sign(&secret, signed), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn public_is_what_everybody_reaches() {
        for text in ["93.184.216.34", "2606:2800:220:1::1", "100.128.0.1", "198.20.0.1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
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
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
