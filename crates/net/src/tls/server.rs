use crate::tls::certificate::first_expiry;
use crate::tls::{Pair, TlsError, load, provider, read_certificates};
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
    /// Its private key.
    pub private_key: PathBuf,
    /// The authorities that clients' certificates may come from; without it none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// Accepts connections with what its files say, and follows them when they change. A connection keeps what it began
/// with; resumption ends with the change.
pub struct Server {
    files: ServerFiles,
    protocols: &'static [&'static [u8]],
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    expiries: Vec<(PathBuf, Timestamp)>,
    seen: Vec<Option<Stamp>>,
}

/// What tells one state of a file from another.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Server {
    /// Reads the files.
    pub fn open(files: ServerFiles) -> Result<Self, TlsError> {
        Self::speaking(&[], files)
    }

    /// The same for a server that names its protocols (ALPN, RFC 7301): a client that asks only for others is refused,
    /// one that asks for none is not.
    pub fn speaking(protocols: &'static [&'static [u8]], files: ServerFiles) -> Result<Self, TlsError> {
        let current = Current::read(&files, protocols)?;
        Ok(Self { files, protocols, current: Mutex::new(current) })
    }

    /// What accepts the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// When the certificates of each file in use expire.
    pub fn expiries(&self) -> Vec<(PathBuf, Timestamp)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).expiries.clone()
    }

    /// Whether a file is another than when it was last read.
    pub fn is_outdated(&self) -> bool {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).seen != stamps(&self.files)
    }

    /// Reads the files anew. What cannot be used changes nothing.
    pub fn renew(&self) {
        let fresh = Current::read(&self.files, self.protocols);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = self.files.certificate.display();
        match fresh {
            Ok(fresh) => {
                *current = fresh;
                tracing::info!(%certificate, "the certificate was read; new connections use it");
            }
            Err(error) => {
                current.seen = stamps(&self.files);
                tracing::error!(%certificate, %error, "the certificate cannot be used; the one before stays");
            }
        }
    }
}

impl Current {
    fn read(files: &ServerFiles, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        // Taken first: what changes while it is read is another at the next look.
        let seen = stamps(files);
        let pair = load(&files.certificate, &files.private_key)?;
        let mut expiries = Vec::new();
        expiries.extend(first_expiry(&pair.certificates).map(|expiry| (files.certificate.clone(), expiry)));
        let mut authorities = None;
        if let Some(path) = &files.client_ca {
            let certificates = read_certificates(path)?;
            expiries.extend(first_expiry(&certificates).map(|expiry| (path.clone(), expiry)));
            authorities = Some(roots(certificates, path)?);
        }
        Ok(Self { acceptor: accept_with(pair, authorities, protocols)?, expiries, seen })
    }
}

/// TLS 1.2 and 1.3, resumption by tickets. With `authorities`, a client that has a certificate of theirs shows it.
pub(super) fn accept_with(
    pair: Pair,
    authorities: Option<RootCertStore>,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let clients = match authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(roots) => verifier(roots)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(clients)
        .with_single_cert(pair.certificates, pair.key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))
}

fn roots(certificates: Vec<CertificateDer<'static>>, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|source| TlsError::Anchor { path: path.into(), source })?;
    }
    Ok(roots)
}

fn stamps(files: &ServerFiles) -> Vec<Option<Stamp>> {
    let paths = [Some(&files.certificate), Some(&files.private_key), files.client_ca.as_ref()];
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some(Stamp {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    paths.into_iter().flatten().map(stamp).collect()
}
