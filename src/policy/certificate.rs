//! Certificates and keys as PEM texts: whether they are good, belong together, and when they expire.
//!
//! **Invariants.** No fault carries anything of a text, so no key is in an error or a log. Every version of X.509 is taken.
//! **Not here.** Where the texts come from (`config`), and who trusts them: the other end decides.

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::sync::Arc;

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
    /// When the first to expire does, in seconds since 1970.
    pub expires_s: i64,
}

impl Chain {
    /// Reads the certificates of a PEM text, the daemon's own first.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateFault> {
        let certificates = parse_certificates(pem)?;
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
    pub fn with_key(self, key: Arc<dyn SigningKey>) -> Result<CertifiedKey, CertificateFault> {
        let is_its_key = key.public_key().is_none_or(|own| own.as_ref() == self.public_key);
        if is_its_key { Ok(CertifiedKey::new(self.certificates, key)) } else { Err(CertificateFault::Mismatch) }
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
    let has = |word: &[u8]| pem.windows(word.len()).any(|part| part == word);
    // PKCS#8 says so in the section's name, PKCS#1 in a line below it.
    if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateFault::Encrypted);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateFault::NoKey)?;
    provider().key_provider.load_private_key(key).map_err(|_| CertificateFault::BadKey)
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
        assert!(chain.expires_s > 1_800_000_000);
        assert!(chain.clone().with_key(parse_key(key.as_bytes()).unwrap()).is_ok());
        let mismatch = chain.with_key(parse_key(other.as_bytes()).unwrap());
        assert_eq!(mismatch.unwrap_err(), CertificateFault::Mismatch);
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
