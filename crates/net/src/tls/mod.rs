//! TLS on both sides: certificates and keys from files, the pair that is made where none is given, and what accepts
//! and opens connections with them.
//!
//! The provider is always `ring`, named at every place: nothing depends on a process-wide default. A private key is
//! never printed.

mod certificate;
mod failure;
mod peer_certificate;
mod reload;
mod server;

pub use certificate::{certificate_identities, file_expiry, normalize_identity};
pub use failure::classify_failure;
pub use peer_certificate::{PeerCertificateInfo, recording_connector};
pub use reload::watch_certificates;
pub use server::{Server, ServerFiles};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate chain, the server's own first, and its private key.
pub struct CertifiedKey {
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
}

impl Clone for CertifiedKey {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), private_key: self.private_key.clone_key() }
    }
}

impl fmt::Debug for CertifiedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Error of setting up TLS, with a remedy for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}; check that it exists and that this user may use it", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Underlying I/O error.
        source: io::Error,
    },
    /// A file holds no PEM that is of use here.
    #[error(
        "{}: {source}; it must be PEM, with a section BEGIN {expected}", path.display()
    )]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// Expected kind of PEM section.
        expected: &'static str,
        /// Underlying PEM error.
        source: pem::Error,
    },
    /// A certificate that cannot anchor trust.
    #[error("{}: {source}; give the certificate (X.509 v3) of the authority or of the server itself", path.display())]
    TrustAnchor {
        /// Path of the certificate.
        path: PathBuf,
        /// Underlying TLS error.
        source: rustls::Error,
    },
    /// Certificate and key do not serve together.
    #[error(
        "certificate and private key cannot be used: {0}; give the key that belongs to the first certificate"
    )]
    KeyMismatch(rustls::Error),
    /// The self-signed pair cannot be made.
    #[error("no self-signed certificate can be made for {hostname:?}: {source}; check the host name")]
    SelfSigned {
        /// The name it was to be made for.
        hostname: String,
        /// Underlying error of the generator.
        source: rcgen::Error,
    },
    /// The library refuses its own settings.
    #[error("TLS cannot be set up: {0}; this is a fault of the program, please report it")]
    Setup(rustls::Error),
}

/// Reads a pair from PEM files.
pub fn load_certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsError> {
    let key = read_file(private_key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
        path: private_key.into(),
        expected: "PRIVATE KEY",
        source,
    })?;
    Ok(CertifiedKey { chain: read_certificates(certificate)?, private_key: key })
}

/// Returns the files of the self-signed pair in `directory`, created on first use for `hostname` and the names of this
/// machine. It does not expire: clients trust the file itself, and nothing would renew it.
pub fn self_signed_files(directory: &Path, hostname: &str) -> Result<ServerFiles, TlsError> {
    ensure_self_signed(directory, hostname)?;
    let (certificate, private_key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    Ok(ServerFiles { certificate, private_key, client_ca: None })
}

/// Loads the self-signed pair, created on first use.
pub fn load_self_signed(directory: &Path, hostname: &str) -> Result<CertifiedKey, TlsError> {
    ensure_self_signed(directory, hostname)?;
    load_certified_key(&directory.join(CERTIFICATE_FILE), &directory.join(KEY_FILE))
}

fn ensure_self_signed(directory: &Path, hostname: &str) -> Result<(), TlsError> {
    let (certificate, key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    // The certificate is written last, so if it exists, the key exists, too.
    if !certificate.try_exists().map_err(file_error(&certificate))? {
        let (certificate_pem, key_pem) = generate_self_signed(hostname)
            .map_err(|source| TlsError::SelfSigned { hostname: hostname.to_owned(), source })?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(file_error(directory))?;
        write_durably(&key, key_pem.as_bytes())?;
        write_durably(&certificate, certificate_pem.as_bytes())?;
    }
    Ok(())
}

/// What accepts connections with a pair: TLS 1.2 and 1.3, resumption by tickets.
pub fn build_acceptor(pair: CertifiedKey) -> Result<TlsAcceptor, TlsError> {
    server::build_acceptor_with(pair, None, &[])
}

/// What opens connections. Trusted are the public authorities and the certificates in `ca_file`, be they an
/// authority's or the server's own.
pub fn build_connector(ca_file: Option<&Path>) -> Result<TlsConnector, TlsError> {
    build_client_config(ca_file).map(|config| TlsConnector::from(Arc::new(config)))
}

/// Builds a client configuration with the trust of [`build_connector`], for clients that open their own connections.
pub fn build_client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    build_recording_config(ca_file, None)
}

/// Builds a configuration that trusts public CAs and the certificates in a file, and records the server's certificate.
fn build_recording_config(
    ca_file: Option<&Path>,
    peer_info: Option<PeerCertificateInfo>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut pinned = Vec::new();
    if let Some(path) = ca_file {
        pinned = read_certificates(path)?;
        for certificate in &pinned {
            roots
                .add(certificate.clone())
                .map_err(|source| TlsError::TrustAnchor { path: path.into(), source })?;
        }
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
    Ok(ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { webpki, pinned, peer_info }))
        .with_no_client_auth())
}

/// Verifier of chain, name and dates with one exception: `openssl req -x509` marks its certificates as CAs, which the
/// default verifier rejects for a server. Such a certificate is accepted if it is exactly the configured one.
#[derive(Debug)]
struct ServerVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
    peer_info: Option<PeerCertificateInfo>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(seen) = &self.peer_info {
            seen.record_chain(end_entity, intermediates);
        }
        match self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            // Faults with a meaning of their own (dates, name, issuer, signature) are other variants; dates come first.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.pinned.iter().any(|own| own == end_entity) =>
            {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    move |source| TlsError::File { path: path.into(), source }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(file_error(path))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_file(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    certificates
        .and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) })
        .map_err(|source| TlsError::Pem { path: path.into(), expected: "CERTIFICATE", source })
}

/// Certificate and key as PEM, on the curve P-256.
fn generate_self_signed(hostname: &str) -> Result<(String, String), rcgen::Error> {
    let mut names = vec![hostname.to_owned()];
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().filter(|n| n != hostname));
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, hostname);
    parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let key = KeyPair::generate()?;
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Whole or not at all, readable by this user only, and on the disk when it returns.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(file_error(path))
}

const CERTIFICATE_FILE: &str = "relay.pem";
const KEY_FILE: &str = "relay.key";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Completes a handshake between `pair` and a client that trusts `ca_file`, for `name`.
    async fn handshake(pair: CertifiedKey, ca_file: Option<&Path>, name: &str) -> Result<String, io::Error> {
        handshake_with(build_acceptor(pair).unwrap(), ca_file, name).await
    }

    pub(crate) async fn handshake_with(
        acceptor: TlsAcceptor,
        ca_file: Option<&Path>,
        name: &str,
    ) -> Result<String, io::Error> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = build_connector(ca_file).unwrap().connect(name, near).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        server.await.unwrap()?;
        Ok(text)
    }

    #[tokio::test]
    async fn self_signed_certificate_covers_its_names_only() {
        let directory = tempfile::tempdir().unwrap();
        let pair = load_self_signed(directory.path(), "relay.example.com").unwrap();
        let ca = directory.path().join(CERTIFICATE_FILE);
        for name in ["relay.example.com", "localhost", "127.0.0.1", "::1"] {
            assert_eq!(handshake(pair.clone(), Some(&ca), name).await.unwrap(), "hello", "{name}");
        }
        assert!(handshake(pair.clone(), Some(&ca), "other.example.com").await.is_err());
        assert!(handshake(pair, None, "localhost").await.is_err());
    }

    #[tokio::test]
    async fn accepts_a_self_signed_ca_in_ca_file() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("server.pem");
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(&ca, parameters.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(directory.path().join("server.key"), key.serialize_pem()).unwrap();
        let pair = load_certified_key(&ca, &directory.path().join("server.key")).unwrap();
        assert_eq!(handshake(pair.clone(), Some(&ca), "localhost").await.unwrap(), "hello");
        assert!(handshake(pair.clone(), Some(&ca), "other.example.com").await.is_err());
        assert!(handshake(pair, None, "localhost").await.is_err());
    }

    #[tokio::test]
    async fn resumes_sessions() {
        let directory = tempfile::tempdir().unwrap();
        let pair = load_self_signed(directory.path(), "localhost").unwrap();
        let acceptor = build_acceptor(pair).unwrap();
        let connector = build_connector(Some(&directory.path().join(CERTIFICATE_FILE))).unwrap();
        for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let (near, far) = tokio::io::duplex(16 << 10);
            let acceptor = acceptor.clone();
            let server = tokio::spawn(async move {
                let mut stream = acceptor.accept(far).await?;
                stream.write_all(b"hello").await?;
                stream.shutdown().await
            });
            let mut stream = connector.connect("localhost".try_into().unwrap(), near).await.unwrap();
            stream.read_to_string(&mut String::new()).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            server.await.unwrap().unwrap();
        }
    }

    #[test]
    fn creates_the_pair_once_with_private_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let tls = directory.path().join("data/tls");
        let first = load_self_signed(&tls, "relay.example.com").unwrap();
        let second = load_self_signed(&tls, "other.example.com").unwrap();
        assert_eq!(first.chain, second.chain);
        assert!(!format!("{first:?}").contains("key"));
        for (path, mode) in [(tls.clone(), 0o700), (tls.join(KEY_FILE), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        fs::remove_file(tls.join(CERTIFICATE_FILE)).unwrap();
        assert_ne!(load_self_signed(&tls, "localhost").unwrap().chain, first.chain);
    }

    #[test]
    fn errors_have_file_cause_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let (good, other) = (directory.path().join("a"), directory.path().join("b"));
        let pair = load_self_signed(&good, "localhost").unwrap();
        let absent = load_certified_key(&good.join(CERTIFICATE_FILE), &other.join("gone.key"))
            .unwrap_err()
            .to_string();
        assert!(absent.contains("gone.key") && absent.contains("check that it exists"), "{absent}");
        let swapped = load_certified_key(&good.join(KEY_FILE), &good.join(KEY_FILE)).unwrap_err().to_string();
        assert!(swapped.contains("relay.key") && swapped.contains("BEGIN CERTIFICATE"), "{swapped}");
        let client =
            CertifiedKey { private_key: load_self_signed(&other, "localhost").unwrap().private_key, ..pair };
        assert!(matches!(build_acceptor(client), Err(TlsError::KeyMismatch(_))));
    }
}
