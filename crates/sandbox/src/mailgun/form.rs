//! Parses forms in both encodings.

use crate::mailgun::router::ApiError;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use multer::Multipart;
use std::convert::Infallible;

/// Names and values in their order.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a body: `multipart/form-data`, or else `application/x-www-form-urlencoded`.
    pub(crate) async fn from_body(headers: &HeaderMap, body: Bytes) -> Result<Self, ApiError> {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let Ok(boundary) = multer::parse_boundary(kind) else {
            return Ok(Self::from_urlencoded(&String::from_utf8_lossy(&body)));
        };
        let stream = futures_util::stream::once(async { Ok::<_, Infallible>(body) });
        let mut parts = Multipart::new(stream, boundary);
        let malformed = |_| ApiError::bad_request("malformed multipart/form-data request");
        let mut form = Self::default();
        while let Some(field) = parts.next_field().await.map_err(malformed)? {
            let name = field.name().unwrap_or_default().to_owned();
            form.0.push((name, field.text().await.map_err(malformed)?));
        }
        Ok(form)
    }

    /// Reads `a=b&c=d`.
    pub(crate) fn from_urlencoded(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    pub(crate) fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn parse_limit(&self, usual: usize, most: usize) -> Result<usize, ApiError> {
        let Some(limit) = self.get("limit") else { return Ok(usual) };
        let limit = limit.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| {
            ApiError::bad_request(format!("'limit' parameter must be a number from 1 to {most}"))
        })
    }
}
