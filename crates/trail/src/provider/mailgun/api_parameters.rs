use crate::provider::mailgun::request_headers::REQUEST_PREFIX;
use crate::provider::mailgun::tracking_header::VARIABLES_HEADER;
use crate::provider::sanitize::strip_prefix_ignoring_case;
use mailtrail_mail::HeaderField;
use serde_json::{Map, Value};

/// Converts the request headers of a message to parameters of `POST /v3/<domain>/messages.mime`: over HTTP, Mailgun
/// documents the parameters only. The headers stay in the message.
///
/// The first of several variables, or of several options that are no list, counts. Mailgun rejects a message with more
/// than 16 kB of parameters: the excess stays in the header only, and our own stamp comes first.
pub fn api_parameters<'a>(fields: impl Iterator<Item = HeaderField<'a>>) -> Vec<(String, String)> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut room = MAX_PARAMETER_BYTES;
    for field in fields {
        for (name, value) in parameters_of(&field) {
            let known = parameters.iter().any(|(known, _)| *known == name);
            let size = name.len() + value.len();
            if size <= room && (!known || REPEATABLE.contains(&name.as_str())) {
                room -= size;
                parameters.push((name, value));
            }
        }
    }
    parameters
}

/// Parameters that correspond to one header field.
fn parameters_of(field: &HeaderField<'_>) -> Vec<(String, String)> {
    let Some(request) = strip_prefix_ignoring_case(field.name, REQUEST_PREFIX) else { return Vec::new() };
    let text = field.to_text();
    if field.name.eq_ignore_ascii_case(VARIABLES_HEADER) {
        return parse_variables(&text);
    }
    let twin = HEADER_TO_PARAMETER.iter().find(|(header, _)| header.eq_ignore_ascii_case(request));
    let named = twin.filter(|_| !text.is_empty()).map(|(_, parameter)| ((*parameter).to_owned(), text));
    named.into_iter().collect()
}

/// Names that a form cannot carry as they are stay out.
fn parse_variables(json: &str) -> Vec<(String, String)> {
    let Ok(map) = serde_json::from_str::<Map<String, Value>>(json) else { return Vec::new() };
    let plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    let named = map.into_iter().filter(|(name, _)| plain(name));
    let parameters = named.map(|(name, value)| match value {
        Value::String(text) => (format!("v:{name}"), text),
        value => (format!("v:{name}"), value.to_string()),
    });
    parameters.collect()
}

/// Header field name after `X-Mailgun-`, and the parameter with the same meaning.
const HEADER_TO_PARAMETER: [(&str, &str); 23] = [
    ("Tag", "o:tag"),
    ("Track", "o:tracking"),
    ("Track-Clicks", "o:tracking-clicks"),
    ("Track-Opens", "o:tracking-opens"),
    ("Track-Pixel-Location-Top", "o:tracking-pixel-location-top"),
    ("Dkim", "o:dkim"),
    ("Secondary-DKIM", "o:secondary-dkim"),
    ("Secondary-DKIM-Public", "o:secondary-dkim-public"),
    ("Deliver-By", "o:deliverytime"),
    ("Deliver-Within", "o:deliver-within"),
    ("Delivery-Time-Optimize-Period", "o:deliverytime-optimize-period"),
    ("Time-Zone-Localize", "o:time-zone-localize"),
    ("Drop-Message", "o:testmode"),
    ("Require-TLS", "o:require-tls"),
    ("Skip-Verification", "o:skip-verification"),
    ("Sending-Ip", "o:sending-ip"),
    ("Sending-Ip-Pool", "o:sending-ip-pool"),
    ("Recipient-Variables", "recipient-variables"),
    ("Template-Name", "template"),
    ("Template-Version", "t:version"),
    ("Template-Variables", "t:variables"),
    ("Archive-To", "o:archive-to"),
    ("Suppress-Headers", "o:suppress-headers"),
];

/// Parameters that may be given again.
const REPEATABLE: [&str; 2] = ["o:tag", "o:suppress-headers"];
/// Bytes of all parameters, names included.
const MAX_PARAMETER_BYTES: usize = 16_000;

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderSection;

    fn parameters_for(header: &str) -> Vec<String> {
        let block = HeaderSection::parse(header.as_bytes());
        api_parameters(block.fields()).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn maps_headers_to_parameters() {
        let header = "X-Mailgun-Variables: {\"mailtrail\":\"01K\"}\r\nTo: x@example.net\r\nX-MAILGUN-TAG: odoo\r\n\
            X-Mailgun-Tag: sale\r\nX-Mailgun-Track: no\r\nX-Mailgun-Track: yes\r\nX-Mailgun-Deliver-By: Mon,\r\n \
            14 Sep 2026 12:00:00 +0000\r\nX-Mailgun-New-Thing: 1\r\nX-Mailgun-Dkim:\r\n\
            X-Mailgun-Variables: {\"odoo_db\": \"prod\", \"n\": 4711, \"o\": {\"a\": null},\r\n \"mailtrail\": \"forged\", \
            \"a b\": 1}\r\nX-Mailgun-Variables: nonsense\r\n\r\nX-Mailgun-Tag: body\r\n";
        assert_eq!(
            parameters_for(header),
            [
                "v:mailtrail=01K",
                "o:tag=odoo",
                "o:tag=sale",
                "o:tracking=no",
                "o:deliverytime=Mon, 14 Sep 2026 12:00:00 +0000",
                "v:odoo_db=prod",
                "v:n=4711",
                "v:o={\"a\":null}",
            ]
        );
    }

    #[test]
    fn respects_the_parameter_size_limit() {
        let long = "x".repeat(9000);
        let header = format!(
            "X-Mailgun-Variables: {{\"mailtrail\":\"01K\"}}\r\nX-Mailgun-Variables: {{\"a\":\"{long}\"}}\r\n\
             X-Mailgun-Variables: {{\"b\":\"{long}\"}}\r\nX-Mailgun-Tag: odoo\r\n\r\n"
        );
        let names: Vec<_> = parameters_for(&header).iter().map(|asked| asked[..5].to_owned()).collect();
        assert_eq!(names, ["v:mai", "v:a=x", "o:tag"]);
    }
}
