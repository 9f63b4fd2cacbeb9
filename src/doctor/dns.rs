//! Checks the DNS records of a sending domain: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489), MX.

use crate::doctor::check_result::{CheckResult, CheckStatus};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use mailtrail_net::provider_api::{ProviderApi, SendingDomain};
use mailtrail_trail::provider::Provider;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Builds the resolver.
pub(super) fn build_resolver(address: Option<SocketAddr>) -> Result<TokioResolver, CheckResult> {
    let builder = match address {
        Some(address) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        }
        None => TokioResolver::builder_tokio(),
    };
    builder.and_then(|builder| builder.build()).map_err(|error| {
        let what = format!("cannot start the resolver: {error}");
        CheckResult::problem(
            CheckStatus::Unknown,
            "dns",
            "",
            what,
            "look at /etc/resolv.conf, or name a server: --resolver",
        )
    })
}

/// Checks of one domain.
pub(super) struct DomainChecks {
    pub resolver: TokioResolver,
    pub domain: String,
    /// Provider that sends for the domain.
    pub provider: Provider,
}

impl DomainChecks {
    /// Runs all checks. The provider's API, if given, supplies the expected records.
    pub async fn run(&self, account: Option<ProviderApi>) -> Vec<CheckResult> {
        let (mut findings, mut known) = (Vec::new(), None);
        if let Some(account) = account {
            match account.fetch_domain(&self.domain).await {
                Ok(Some(domain)) => {
                    findings.push(self.evaluate_state(&domain));
                    known = Some(domain);
                }
                Ok(None) => {
                    let what = "the provider's account has no such domain";
                    let remedy = "add it there, or check domain and region of the upstream";
                    findings.push(self.problem(CheckStatus::Warn, "domain", what, remedy));
                }
                Err(fault) => {
                    let remedy = "check api_base_url";
                    findings.push(CheckResult::from_error(
                        CheckStatus::Unknown,
                        "domain",
                        &*self.domain,
                        &fault,
                        remedy,
                    ));
                }
            }
        }
        let (spf, dkim, dmarc, mx) = futures_util::join!(
            self.check_spf(),
            self.check_dkim(known.as_ref()),
            self.check_dmarc(),
            self.check_mx()
        );
        findings.extend([spf, dkim, dmarc, mx]);
        findings
    }

    fn evaluate_state(&self, domain: &SendingDomain) -> CheckResult {
        let state = format!("state at the provider: {}", domain.state);
        if domain.is_active {
            return CheckResult::ok("domain", &*self.domain, state);
        }
        let remedy = "see the provider's control panel; DNS records are the usual cause";
        self.problem(CheckStatus::Fail, "domain", state, remedy)
    }

    /// Checks that the SPF policy of the domain, or one that it includes, authorizes the provider.
    async fn check_spf(&self) -> CheckResult {
        let wanted = match self.provider {
            Provider::Mailgun => Some("mailgun.org"),
            // Brevo's envelope sender has a domain of its own.
            Provider::Brevo | Provider::Plain => None,
        };
        let (mut names, mut seen) = (VecDeque::from([self.domain.clone()]), BTreeSet::new());
        while let Some(name) = names.pop_front() {
            // Receivers fail with more lookups, too (RFC 7208 section 4.6.4).
            if !seen.insert(name.clone()) || seen.len() > MAX_SPF_LOOKUPS {
                continue;
            }
            let policies = match self.lookup_txt(&name).await {
                Ok(texts) => texts.into_iter().filter(|text| is_spf(text)).collect::<Vec<_>>(),
                Err(error) if name == self.domain => return self.lookup_failed("spf", &error),
                Err(_) => continue,
            };
            if name == self.domain
                && let Some(finding) = self.check_own_spf(&policies)
            {
                return finding;
            }
            let Some(wanted) = wanted else {
                return CheckResult::ok("spf", &*self.domain, "there is a policy");
            };
            for included in policies.iter().flat_map(|policy| included_domains(policy)) {
                if is_same_or_subdomain(&included, wanted) {
                    return CheckResult::ok("spf", &*self.domain, format!("it lets {included} send"));
                }
                names.push_back(included);
            }
        }
        let wanted = wanted.unwrap_or_default();
        let what = format!("it does not let {wanted} send");
        self.problem(
            CheckStatus::Fail,
            "spf",
            what,
            format!("put include:{wanted} into its v=spf1 TXT record"),
        )
    }

    /// Returns the fault in the domain's own policies, if there is one.
    fn check_own_spf(&self, policies: &[String]) -> Option<CheckResult> {
        let include = match self.provider {
            Provider::Mailgun => "v=spf1 include:mailgun.org ~all",
            Provider::Brevo => "v=spf1 include:spf.brevo.com ~all",
            Provider::Plain => "v=spf1 ... -all with the addresses of your upstream",
        };
        match (policies.len(), self.provider) {
            (0, Provider::Mailgun) => {
                let remedy = format!("add a TXT record {include:?}");
                Some(self.problem(CheckStatus::Fail, "spf", "there is no v=spf1 TXT record", remedy))
            }
            (0, _) => {
                let remedy = format!("add a TXT record {include:?}");
                Some(self.problem(CheckStatus::Warn, "spf", "there is no v=spf1 TXT record", remedy))
            }
            (1, _) => None,
            (count, _) => {
                let what = format!("there are {count} v=spf1 TXT records, which counts as an error");
                Some(self.problem(CheckStatus::Fail, "spf", what, "make one of them"))
            }
        }
    }

    /// Checks the provider's DKIM keys; only the provider knows their selectors.
    async fn check_dkim(&self, known: Option<&SendingDomain>) -> CheckResult {
        let records = known.map(|domain| domain.dns_records.as_slice()).unwrap_or_default();
        let keys: Vec<_> = records.iter().filter(|record| record.name.contains("._domainkey.")).collect();
        if keys.is_empty() && known.is_some_and(|domain| domain.is_active) {
            return CheckResult::ok("dkim", &*self.domain, "the provider has found its key");
        }
        if keys.is_empty() {
            let what = "unknown selector";
            return self.problem(
                CheckStatus::Unknown,
                "dkim",
                what,
                "look at the domain in the provider's panel",
            );
        }
        for key in &keys {
            // A CNAME to the provider's record is followed.
            let texts = match self.lookup_txt(&key.name).await {
                Ok(texts) => texts,
                Err(error) => return self.lookup_failed("dkim", &error),
            };
            let good = |text: &String| match key.kind.as_str() {
                "TXT" => strip_whitespace(text) == strip_whitespace(&key.value),
                _ => dkim_public_key(text).is_some_and(|key| !key.is_empty()),
            };
            if !texts.iter().any(good) {
                let what = if texts.is_empty() { "there is no key at" } else { "there is another key at" };
                let remedy = format!("set {} {} to: {}", key.kind, key.name, key.value);
                return self.problem(CheckStatus::Fail, "dkim", format!("{what} {}", key.name), remedy);
            }
        }
        let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
        CheckResult::ok("dkim", &*self.domain, format!("the provider's key is there: {}", names.join(", ")))
    }

    /// Checks the DMARC policy of the domain or of a parent domain.
    async fn check_dmarc(&self) -> CheckResult {
        let mut name = self.domain.as_str();
        loop {
            let policies = match self.lookup_txt(&format!("_dmarc.{name}")).await {
                Ok(texts) => texts.into_iter().filter(|text| is_dmarc(text)).collect::<Vec<_>>(),
                Err(error) => return self.lookup_failed("dmarc", &error),
            };
            if let [policy] = &policies[..] {
                return CheckResult::ok("dmarc", &*self.domain, format!("_dmarc.{name} says {policy:?}"));
            }
            if policies.len() > 1 {
                let what = format!("_dmarc.{name} has {} policies, so it has none", policies.len());
                return self.problem(CheckStatus::Warn, "dmarc", what, "make one of them");
            }
            match name.split_once('.') {
                Some((_, above)) if above.contains('.') => name = above,
                _ => break,
            }
        }
        let remedy =
            format!("add a TXT record \"v=DMARC1; p=none; rua=mailto:...\" at _dmarc.{}", self.domain);
        self.problem(
            CheckStatus::Warn,
            "dmarc",
            "there is no policy, and large receivers ask for one",
            remedy,
        )
    }

    /// Checks that the domain receives mail; some receivers reject senders that cannot be answered.
    async fn check_mx(&self) -> CheckResult {
        match self.lookup(&self.domain, RecordType::MX).await {
            Ok(records) if records.is_empty() => {
                let what = "there is no MX record, so bounces and replies cannot be delivered";
                self.problem(
                    CheckStatus::Warn,
                    "mx",
                    what,
                    "add the provider's MX records, or your mail server's",
                )
            }
            Ok(records) => {
                let hosts: Vec<_> = records
                    .iter()
                    .filter_map(|data| match data {
                        RData::MX(mx) => Some(mx.exchange.to_utf8()),
                        _ => None,
                    })
                    .collect();
                CheckResult::ok("mx", &*self.domain, hosts.join(", "))
            }
            Err(error) => self.lookup_failed("mx", &error),
        }
    }

    async fn lookup_txt(&self, name: &str) -> Result<Vec<String>, NetError> {
        let found = self.lookup(name, RecordType::TXT).await?;
        let text = |data: &RData| match data {
            // The strings of a record are one text (RFC 7208 section 3.3).
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        Ok(found.iter().filter_map(text).collect())
    }

    /// Returns the records of a type; none if the name does not exist.
    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, NetError> {
        // The final dot disables the search list of this machine.
        let name = format!("{}.", name.trim_end_matches('.'));
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => {
                let answers = lookup.answers().iter().filter(|record| record.record_type() == kind);
                Ok(answers.map(|record| record.data.clone()).collect())
            }
            Err(error) if is_no_records(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn problem(
        &self,
        status: CheckStatus,
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> CheckResult {
        CheckResult::problem(status, check, &*self.domain, what, remedy)
    }

    fn lookup_failed(&self, check: &'static str, error: &NetError) -> CheckResult {
        let what = format!("the DNS does not answer: {error}");
        self.problem(
            CheckStatus::Unknown,
            check,
            what,
            "look at /etc/resolv.conf, or name a server: --resolver",
        )
    }
}

/// Whether the error is an authoritative answer without records.
fn is_no_records(error: &NetError) -> bool {
    use hickory_resolver::net::DnsError;
    matches!(
        error,
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
    )
}

fn is_spf(text: &str) -> bool {
    text.split(' ').next().is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"))
}

fn is_dmarc(text: &str) -> bool {
    text.split(';').next().is_some_and(|version| strip_whitespace(version) == "v=DMARC1")
}

/// Domains with policies that also apply: `include` and `redirect`.
fn included_domains(policy: &str) -> Vec<String> {
    let term = |term: &str| {
        let term = term.trim_start_matches(['+', '?', '~']).to_ascii_lowercase();
        let name = term.strip_prefix("include:").or_else(|| term.strip_prefix("redirect="));
        name.map(|name| name.trim_end_matches('.').to_owned())
    };
    policy.split_ascii_whitespace().filter_map(term).collect()
}

/// Whether `name` is the domain or a subdomain.
fn is_same_or_subdomain(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Removes white space, which has no meaning in a tag list (RFC 6376 section 3.2), and a final semicolon.
fn strip_whitespace(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    text.trim_end_matches(';').to_owned()
}

/// Returns the public key of a DKIM record.
fn dkim_public_key(text: &str) -> Option<String> {
    strip_whitespace(text).split(';').find_map(|tag| tag.strip_prefix("p=")).map(str::to_owned)
}

/// Maximum number of names looked up for one policy.
const MAX_SPF_LOOKUPS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_spf_dmarc_and_dkim_records() {
        assert!(is_spf("v=spf1 ~all") && is_spf("V=SPF1") && !is_spf("v=spf10 ~all"));
        let policy =
            "v=spf1 a ip4:192.0.2.0/24 ?include:MAILGUN.org. -include:evil.example redirect=b.example";
        assert_eq!(included_domains(policy), ["mailgun.org", "b.example"]);
        assert!(
            is_same_or_subdomain("eu.mailgun.org", "mailgun.org")
                && !is_same_or_subdomain("notmailgun.org", "mailgun.org")
        );
        assert!(
            is_dmarc("v=DMARC1; p=none") && is_dmarc("v = DMARC1;p=none") && !is_dmarc("p=none; v=DMARC1")
        );
        assert_eq!(dkim_public_key("v=DKIM1; k=rsa; p=AB CD;").as_deref(), Some("ABCD"));
        assert_eq!(dkim_public_key("k=rsa"), None);
    }
}
