//! Web page: static content for every client that can connect. It reads its data from `/api/v1` with a
//! token entered by the user, and performs no actions.
//!
//! Nearly all displayed data comes from untrusted sources. The headers restrict the page to scripts and
//! requests of this origin, forbid sending forms and embedding in frames, and prevent text from becoming
//! markup.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Returns the router of `/` and its assets.
pub(super) fn page_router() -> Router {
    Router::new()
        .route("/", get(async || static_file("text/html; charset=utf-8", PAGE_HTML)))
        .route("/page.css", get(async || static_file("text/css; charset=utf-8", PAGE_CSS)))
        .route("/page.js", get(async || static_file("text/javascript; charset=utf-8", PAGE_JS)))
}

fn static_file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        // After an upgrade all assets are of one version.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (fields, text)
}

const PAGE_HTML: &str = include_str!("web/page.html");
const PAGE_CSS: &str = include_str!("web/page.css");
const PAGE_JS: &str = include_str!("web/page.js");

/// Policy enforced by the browser (Content Security Policy Level 3, Trusted Types).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
