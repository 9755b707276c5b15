//! Certificates and keys as PEM texts: whether they are good, belong together, and when they expire.
//!
//! **Invariants.** No fault carries anything of a text, so no key is in an error or a log. Every version of X.509 is taken.
//! **Not here.** Where the texts come from (`config`), and who trusts them: the other end decides.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::sync::Arc;
use zeroize::Zeroize;

/// The name in certificates that are made here.
const OWN_NAME: &str = "placeos-dispatch";

/// What is wrong with a certificate or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// There is no PEM section of a certificate.
    #[error("it has no certificate in PEM")]
    NoCertificate,
    /// A section is no certificate.
    #[error("it has something that is no certificate of X.509")]
    NotX509,
    /// There is no PEM section of a private key.
    #[error("it has no private key in PEM")]
    NoKey,
    /// The private key needs a passphrase.
    #[error("its private key is encrypted; it must have no passphrase")]
    Encrypted,
    /// The private key is of an unknown kind, or damaged.
    #[error("its private key cannot be used: RSA of 2048 bits or more, ECDSA and Ed25519 can")]
    BadKey,
    /// The private key is not that of the certificate.
    #[error("its private key is not that of the certificate")]
    Mismatch,
}

/// A certificate, those that vouch for it, and what is to be known of them.
#[derive(Debug, Clone)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// The public key of the first.
    public_key: Vec<u8>,
    expires_s: i64,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Certified {
    /// Both, for TLS.
    pub key: CertifiedKey,
    /// The public key, to tell it from others by.
    pub public_key: Arc<[u8]>,
    /// When the first certificate to expire does, in seconds since 1970.
    pub expires_s: i64,
}

impl Chain {
    /// Reads the certificates of a PEM text, the daemon's own first.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateFault> {
        Chain::of(parse_certificates(pem)?)
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertificateFault> {
        let (mut public_key, mut expires_s) = (None, i64::MAX);
        for certificate in &certificates {
            let (_, parsed) =
                x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateFault::NotX509)?;
            public_key.get_or_insert_with(|| parsed.public_key().raw.to_vec());
            expires_s = expires_s.min(parsed.validity().not_after.timestamp());
        }
        Ok(Chain { certificates, public_key: public_key.unwrap_or_default(), expires_s })
    }

    /// Puts certificate and key together.
    ///
    /// # Errors
    /// [`CertificateFault::Mismatch`] where they do not belong together.
    pub fn with_key(self, key: Arc<dyn SigningKey>) -> Result<Certified, CertificateFault> {
        let Chain { certificates, public_key, expires_s } = self;
        if key.public_key().is_some_and(|own| own.as_ref() != public_key) {
            return Err(CertificateFault::Mismatch);
        }
        Ok(Certified { key: CertifiedKey::new(certificates, key), public_key: public_key.into(), expires_s })
    }
}

/// Every certificate of a PEM text; at least one.
///
/// # Errors
/// [`CertificateFault::NoCertificate`] where there is none, or where the text is damaged.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|found| !found.is_empty()).ok_or(CertificateFault::NoCertificate)
}

/// The private key of a PEM text: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// What is wrong with it.
pub fn parse_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateFault> {
    let mut der = parse_der(pem)?;
    let key = any_supported_type(&der).map_err(|_| CertificateFault::BadKey);
    der.zeroize();
    key
}

/// A certificate that the private key of a PEM text has signed itself.
///
/// # Errors
/// What is wrong with the key.
pub fn self_signed(pem: &[u8]) -> Result<Certified, CertificateFault> {
    let mut der = parse_der(pem)?;
    let pair = KeyPair::try_from(&der).map_err(|_| CertificateFault::BadKey);
    der.zeroize();
    sign_itself(pair?)
}

/// A certificate with a new RSA key of 2,048 bits, which has signed itself. Takes up to a second.
///
/// # Errors
/// [`CertificateFault::BadKey`] where the cryptography cannot make one; none is expected.
pub fn made() -> Result<Certified, CertificateFault> {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
    sign_itself(pair.map_err(|_| CertificateFault::BadKey)?)
}

fn sign_itself(mut pair: KeyPair) -> Result<Certified, CertificateFault> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, OWN_NAME);
    // The last year that the older form of dates has, which every device can read.
    params.not_after = date_time_ymd(2049, 12, 31);
    let certificate = params.self_signed(&pair).map_err(|_| CertificateFault::BadKey)?;
    let mut der = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|_| CertificateFault::BadKey)?;
    let key = any_supported_type(&der).map_err(|_| CertificateFault::BadKey);
    der.zeroize();
    pair.zeroize();
    Chain::of(vec![certificate.der().clone()])?.with_key(key?)
}

fn parse_der(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateFault> {
    let has = |word: &[u8]| pem.windows(word.len()).any(|part| part == word);
    // PKCS#8 says so in the section's name, PKCS#1 in a line below it.
    if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateFault::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateFault::NoKey)
}

/// The cryptography of everything that speaks TLS. In TLS 1.2, which cannot renew its keys, ciphers whose keys wear out go
/// last: AES-GCM's do after 16 million records, and the session with them.
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit < u64::MAX,
        SupportedCipherSuite::Tls13(_) => false,
    });
    provider
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["dispatch.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_goes_with_its_own_key_alone() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let chain = Chain::parse(certificate.as_bytes()).unwrap();
        let certified = chain.clone().with_key(parse_key(key.as_bytes()).unwrap()).unwrap();
        assert!(certified.expires_s > 1_800_000_000);
        let mismatch = chain.with_key(parse_key(other.as_bytes()).unwrap());
        assert_eq!(mismatch.unwrap_err(), CertificateFault::Mismatch);
    }

    #[test]
    fn a_certificate_is_made_for_a_key_or_with_one_of_its_own() {
        let (_, key) = pair();
        let own = parse_key(key.as_bytes()).unwrap().public_key().unwrap().to_vec();
        assert_eq!(*self_signed(key.as_bytes()).unwrap().public_key, *own);
        let (one, other) = (made().unwrap(), made().unwrap());
        assert_ne!(one.public_key, other.public_key);
        let (_, parsed) = x509_parser::parse_x509_certificate(&one.key.cert[0]).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=placeos-dispatch");
        assert_eq!(parsed.public_key().parsed().unwrap().key_size(), 2_048);
    }

    #[test]
    fn a_text_that_is_none_is_named_for_what_it_lacks() {
        let (certificate, key) = pair();
        assert_eq!(Chain::parse(key.as_bytes()).unwrap_err(), CertificateFault::NoCertificate);
        assert_eq!(Chain::parse(b"\xff\0 garbage").unwrap_err(), CertificateFault::NoCertificate);
        let damaged = certificate.replacen("MII", "AAA", 1);
        let fault = Chain::parse(damaged.as_bytes()).unwrap_err();
        assert!(matches!(fault, CertificateFault::NotX509 | CertificateFault::NoCertificate), "{fault}");
        assert_eq!(parse_key(certificate.as_bytes()).unwrap_err(), CertificateFault::NoKey);
        for line in ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"] {
            assert_eq!(parse_key(line.as_bytes()).unwrap_err(), CertificateFault::Encrypted);
        }
        let bad = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(parse_key(bad.as_bytes()).unwrap_err(), CertificateFault::BadKey);
    }
}
