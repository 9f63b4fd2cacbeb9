//! Certificate authority for tests.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Authority that issues certificates of servers and clients.
pub struct TestCa(pub CertifiedIssuer<'static, KeyPair>);

/// Certificate and its key.
pub struct TestCertificate {
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl TestCa {
    pub fn generate() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn issue(&self, name: SanType) -> TestCertificate {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![name];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.not_after = date_time_ymd(2027, 1, 2);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap().der().clone();
        TestCertificate { certificate, key }
    }

    /// Returns a client's connector that trusts this authority.
    pub fn connector(&self, identity: Option<&TestCertificate>) -> TlsConnector {
        TlsConnector::from(Arc::new(self.client_config(identity)))
    }

    /// Returns a client's connector that trusts this authority and requests these protocols (ALPN).
    pub fn connector_with_alpn(&self, protocols: &[&str]) -> TlsConnector {
        let mut config = self.client_config(None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    fn client_config(&self, identity: Option<&TestCertificate>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(TestCertificate { certificate, key }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
            }
        }
    }
}

impl TestCertificate {
    pub fn write(&self, directory: &Path) {
        let body = BASE64_STANDARD.encode(&self.certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        std::fs::write(directory.join("relay.pem"), pem).unwrap();
        std::fs::write(directory.join("relay.key"), self.key.serialize_pem()).unwrap();
    }
}

/// Returns a DNS name for a certificate.
pub fn dns_name(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// Returns the ClientHello of a client whose highest version is 3.`minor` (RFC 5246 section 7.4.1.2).
pub fn client_hello(minor: u8) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let extensions: [&[u8]; 4] = [
        &[0, 10, 0, 4, 0, 2, 0, 0x17],    // secp256r1
        &[0, 11, 0, 2, 1, 0],             // uncompressed points
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256
        &[0, 0x17, 0, 0],                 // extended master secret
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x09]); // ECDHE-ECDSA with AES-128: GCM, and CBC for old versions
    body.extend([1, 0]);
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let mut hello = vec![0x16, 3, 1];
    hello.extend(length(body.len() + 4));
    hello.extend([1, 0]);
    hello.extend(length(body.len()));
    hello.extend(body);
    hello
}
