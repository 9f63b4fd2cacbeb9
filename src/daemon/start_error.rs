//! Errors that prevent a start or a reload.

use mailtrail_net::provider_api::ApiError;
use mailtrail_net::tls::TlsError;
use mailtrail_store::{OpenError, is_shortage};
use std::io;

/// Error that prevents a start or a reload.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the names say all")]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    ProviderApi(#[from] ApiError),
    #[error(
        "{listener} cannot listen on {address}: {source}; end the program that has it, or use a port above 1023"
    )]
    Bind { listener: &'static str, address: String, source: io::Error },
}

impl StartError {
    /// Returns whether a retry may succeed. Missing permissions are a fault of the configuration.
    pub(super) fn passes_by_itself(&self) -> bool {
        let cause = match self {
            Self::Store(OpenError::Io { source, .. }) | Self::Tls(TlsError::File { source, .. }) => source,
            Self::Store(error) => return error.is_shortage(),
            Self::Tls(_) | Self::ProviderApi(_) | Self::Bind { .. } => return false,
        };
        is_shortage(cause) && cause.kind() != io::ErrorKind::PermissionDenied
    }
}
