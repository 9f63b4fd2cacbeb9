use crate::tls::certificate::first_expiry;
use crate::tls::{CertifiedKey, TlsError, crypto_provider, load_certified_key, read_certificates};
use mailtrail_mail::Timestamp;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsAcceptor;

/// The files that a server's TLS is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    /// Path of its private key.
    pub private_key: PathBuf,
    /// CA file for client certificates; without it none is requested.
    pub client_ca: Option<PathBuf>,
}

/// TLS server that reloads its files when they change. A connection keeps its configuration; session resumption ends
/// with a change.
pub struct Server {
    files: ServerFiles,
    alpn_protocols: &'static [&'static [u8]],
    active: Mutex<ActiveConfig>,
}

struct ActiveConfig {
    acceptor: TlsAcceptor,
    expiries: Vec<(PathBuf, Timestamp)>,
    file_versions: Vec<Option<FileVersion>>,
}

/// Version of a file, to detect changes.
#[derive(PartialEq, Eq)]
struct FileVersion {
    file: (u64, u64),
    size: u64,
    modified_at: (i64, i64),
    changed_at: (i64, i64),
}

impl Server {
    /// Loads the files.
    pub fn open(files: ServerFiles) -> Result<Self, TlsError> {
        Self::open_with_alpn(&[], files)
    }

    /// Like `open`, with protocols (ALPN, RFC 7301): a client that offers only others is rejected, one that offers none
    /// is not.
    pub fn open_with_alpn(
        alpn_protocols: &'static [&'static [u8]],
        files: ServerFiles,
    ) -> Result<Self, TlsError> {
        let current = ActiveConfig::load(&files, alpn_protocols)?;
        Ok(Self { files, alpn_protocols, active: Mutex::new(current) })
    }

    /// What accepts the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// When the certificates of each file in use expire.
    pub fn expiries(&self) -> Vec<(PathBuf, Timestamp)> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).expiries.clone()
    }

    /// Whether a file is another than when it was last read.
    pub fn needs_reload(&self) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).file_versions != file_versions(&self.files)
    }

    /// Reloads the files. Unusable files change nothing.
    pub fn reload(&self) {
        let fresh = ActiveConfig::load(&self.files, self.alpn_protocols);
        let mut current = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = self.files.certificate.display();
        match fresh {
            Ok(fresh) => {
                *current = fresh;
                tracing::info!(%certificate, "the certificate was read; new connections use it");
            }
            Err(error) => {
                current.file_versions = file_versions(&self.files);
                tracing::error!(%certificate, %error, "the certificate cannot be used; the one before stays");
            }
        }
    }
}

impl ActiveConfig {
    fn load(files: &ServerFiles, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        // Taken before reading, so that a change while reading is detected at the next check.
        let seen = file_versions(files);
        let pair = load_certified_key(&files.certificate, &files.private_key)?;
        let mut expiries = Vec::new();
        expiries.extend(first_expiry(&pair.chain).map(|expiry| (files.certificate.clone(), expiry)));
        let mut authorities = None;
        if let Some(path) = &files.client_ca {
            let certificates = read_certificates(path)?;
            expiries.extend(first_expiry(&certificates).map(|expiry| (path.clone(), expiry)));
            authorities = Some(root_store(certificates, path)?);
        }
        Ok(Self {
            acceptor: build_acceptor_with(pair, authorities, protocols)?,
            expiries,
            file_versions: seen,
        })
    }
}

/// TLS 1.2 and 1.3, resumption by tickets. With `authorities`, a client that has a certificate of theirs shows it.
pub(super) fn build_acceptor_with(
    pair: CertifiedKey,
    authorities: Option<RootCertStore>,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let clients = match authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(roots) => client_verifier(roots)?,
    };
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(clients)
        .with_single_cert(pair.chain, pair.private_key)
        .map_err(TlsError::KeyMismatch)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn client_verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))
}

fn root_store(certificates: Vec<CertificateDer<'static>>, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|source| TlsError::TrustAnchor { path: path.into(), source })?;
    }
    Ok(roots)
}

fn file_versions(files: &ServerFiles) -> Vec<Option<FileVersion>> {
    let paths = [Some(&files.certificate), Some(&files.private_key), files.client_ca.as_ref()];
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some(FileVersion {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified_at: (found.mtime(), found.mtime_nsec()),
            changed_at: (found.ctime(), found.ctime_nsec()),
        })
    };
    paths.into_iter().flatten().map(stamp).collect()
}
