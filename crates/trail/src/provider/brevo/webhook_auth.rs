use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::Secret;

/// What Brevo proves itself with. Each way that is set is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookAuth {
    /// Tokens, two while they change.
    pub tokens: Vec<Secret>,
    /// The header field that carries the token; without it the token comes as `Authorization: Bearer`.
    pub token_header: Option<String>,
    /// User name and password, sent by Brevo from the login in the webhook's URL.
    pub basic: Option<(String, Secret)>,
}

impl WebhookAuth {
    /// Returns whether no credentials are configured.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.basic.is_none()
    }

    /// Whether a request with such header fields is Brevo's; compared in constant time.
    pub fn verify_request<'a>(&self, field: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        let authorization = field("authorization").unwrap_or_default();
        let token = match &self.token_header {
            Some(name) => field(name),
            None => strip_auth_scheme(authorization, "bearer"),
        };
        let by_token =
            token.is_some_and(|token| self.tokens.iter().any(|known| known.ct_eq(token.trim_ascii())));
        by_token || strip_auth_scheme(authorization, "basic").is_some_and(|login| self.matches_basic(login))
    }

    fn matches_basic(&self, encoded: &[u8]) -> bool {
        let Some((user, password)) = &self.basic else { return false };
        let given = BASE64_STANDARD.decode(encoded.trim_ascii()).unwrap_or_default();
        Secret::new(format!("{user}:{}", password.expose())).ct_eq(&given)
    }
}

/// Returns the part after the scheme, which is case-insensitive (RFC 9110 section 11.1).
fn strip_auth_scheme<'a>(authorization: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (scheme, rest) = authorization.split_at_checked(name.len())?;
    rest.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_verified(credentials: &WebhookAuth, fields: &[(&str, &str)]) -> bool {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
        let find = |name: &str| fields.iter().find(|(known, _)| *known == name.to_lowercase());
        credentials.verify_request(|name| find(name).map(|(_, value)| value.as_bytes()))
    }

    #[test]
    fn accepts_configured_methods_only() {
        let tokens = vec![Secret::new("old"), Secret::new("new")];
        let bearer = WebhookAuth { tokens: tokens.clone(), ..WebhookAuth::default() };
        let custom = WebhookAuth { tokens, token_header: Some("X-Token".into()), basic: None };
        let login = Some(("mt".to_owned(), Secret::new("test-webhook-secret")));
        let basic = WebhookAuth { basic: login, ..WebhookAuth::default() };
        let encoded = "Basic bXQ6dGVzdC13ZWJob29rLXNlY3JldA==";
        for (credentials, field, value, good) in [
            (&bearer, "Authorization", "Bearer new", true),
            (&bearer, "Authorization", "bearer old", true),
            (&bearer, "Authorization", "Bearer other", false),
            (&bearer, "Authorization", "Bearer", false),
            (&bearer, "Authorization", "Bearer ", false),
            (&bearer, "Authorization", "new", false),
            (&bearer, "X-Token", "new", false),
            (&bearer, "Authorization", encoded, false),
            (&custom, "x-token", "new", true),
            (&custom, "x-token", "", false),
            (&custom, "Authorization", "Bearer new", false),
            (&basic, "Authorization", encoded, true),
            (&basic, "Authorization", "basic bXQ6dGVzdC13ZWJob29rLXNlY3JldA==", true),
            (&basic, "Authorization", "Basic bXQ6", false),
            (&basic, "Authorization", "Basic !", false),
            (&basic, "Authorization", "Bearer test-webhook-secret", false),
        ] {
            assert_eq!(is_verified(credentials, &[(field, value)]), good, "{field}: {value}");
        }
        assert!(!is_verified(&WebhookAuth::default(), &[("Authorization", "Basic Og==")]));
        assert!(!is_verified(&bearer, &[]) && WebhookAuth::default().is_empty() && !basic.is_empty());
    }
}
