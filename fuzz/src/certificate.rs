//! Certificates and keys that drivers bring: any text gives what it is for or a fault, and none is taken for two things.

use uring_dispatch::policy::certificate::{CertificateFault, Chain, parse_certificates, parse_key, self_signed};

/// Reads `input` as the text of a chain, and as that of a key.
pub fn check(input: &[u8]) {
    let certificates = parse_certificates(input);
    let chain = Chain::parse(input);
    match (&certificates, &chain) {
        (Err(fault), Err(of_chain)) => assert_eq!((fault, of_chain), (&CertificateFault::NoCertificate, fault)),
        (Ok(found), Err(fault)) => assert!(!found.is_empty() && *fault == CertificateFault::NotX509),
        (Ok(found), Ok(_)) => assert!(!found.is_empty()),
        (Err(fault), Ok(_)) => panic!("a chain without a certificate: {fault}"),
    }
    let (key, own) = (parse_key(input), self_signed(input));
    match (&key, &own) {
        (Err(fault @ (CertificateFault::NoKey | CertificateFault::Encrypted)), Err(of_own)) => {
            assert_eq!(fault, of_own)
        }
        (Ok(key), Ok(own)) => {
            let public = key.public_key();
            assert!(public.is_none_or(|public| public.as_ref() == &*own.public_key), "of another key");
        }
        // What signs for TLS and what certificates are made with take keys of their own.
        _ => {}
    }
    if let (Ok(chain), Ok(key)) = (chain, key) {
        let fault = chain.with_key(key).err();
        assert!(fault.is_none_or(|fault| fault == CertificateFault::Mismatch), "{fault:?}");
    }
}
