//! Certificates by which clients say who they are.

use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

/// Why a certificate cannot be shown to servers. Nothing of it is quoted.
#[derive(Debug, thiserror::Error)]
#[error("the client certificate cannot be used: {0}")]
pub struct Unfit(String);

/// A certificate and its key, for servers that ask for one.
#[derive(Clone, Debug)]
pub struct Identity(pub(super) reqwest::Identity);

impl Identity {
    /// Of a key and a certificate in PEM, in any order, perhaps with those that vouch for it.
    ///
    /// # Errors
    /// [`Unfit`]: without key or certificate, or when they do not belong together.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Unfit> {
        // Encrypted ones would be asked for on the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0));
        let key = key.map_err(|_| Unfit("there is no key in PEM that is not encrypted".into()))?;
        let certificates = X509::stack_from_pem(pem).unwrap_or_default();
        Self::of(&key, &certificates)
    }

    /// Of a PKCS#12 container in DER without password.
    ///
    /// # Errors
    /// As [`Identity::from_pem`].
    pub fn from_pkcs12(der: &[u8]) -> Result<Self, Unfit> {
        let parsed = Pkcs12::from_der(der).and_then(|container| container.parse2(""));
        let parsed = parsed.map_err(|e| Unfit(format!("PKCS#12: {}", reason(&e))))?;
        let key = parsed.pkey.ok_or_else(|| Unfit("there is no key in the PKCS#12 container".into()))?;
        let others = parsed.ca.into_iter().flatten();
        Self::of(&key, &parsed.cert.into_iter().chain(others).collect::<Vec<_>>())
    }

    fn of(key: &PKey<Private>, certificates: &[X509]) -> Result<Self, Unfit> {
        let first = certificates.first().ok_or_else(|| Unfit("there is no certificate".into()))?;
        if !first.public_key().is_ok_and(|public| public.public_eq(key)) {
            return Err(Unfit("its key is another certificate's".into()));
        }
        let parts = || -> Result<_, openssl::error::ErrorStack> {
            let pem = certificates.iter().map(|c| c.to_pem()).collect::<Result<Vec<_>, _>>()?;
            Ok((pem.concat(), key.private_key_to_pem_pkcs8()?))
        };
        let (certificates, key) = parts().map_err(|e| Unfit(reason(&e)))?;
        reqwest::Identity::from_pkcs8_pem(&certificates, &key).map(Self).map_err(|e| Unfit(e.to_string()))
    }
}

/// OpenSSL's words without its codes.
fn reason(error: &openssl::error::ErrorStack) -> String {
    let last = error.errors().last().and_then(openssl::error::Error::reason);
    last.unwrap_or("it cannot be read").to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::x509::X509NameBuilder;

    use super::*;

    /// A key and a certificate for it that nobody else vouches for.
    pub(crate) fn certificate() -> (PKey<Private>, X509) {
        let curve = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&curve).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "tester").unwrap();
        let name = name.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_subject_name(&name).unwrap();
        certificate.set_issuer_name(&name).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        (key, certificate.build())
    }

    #[test]
    fn keys_and_certificates_have_to_match() {
        let (key, certificate) = certificate();
        let (pem, sec1) =
            (certificate.to_pem().unwrap(), key.ec_key().unwrap().private_key_to_pem().unwrap());
        for form in [key.private_key_to_pem_pkcs8().unwrap(), sec1] {
            Identity::from_pem(&[&form[..], b"\n", &pem].concat()).unwrap();
            Identity::from_pem(&[&pem[..], &form].concat()).unwrap();
        }
        let mut container = Pkcs12::builder();
        let container = container.name("x").pkey(&key).cert(&certificate).build2("").unwrap();
        Identity::from_pkcs12(&container.to_der().unwrap()).unwrap();
        let other = super::tests::certificate().0.private_key_to_pem_pkcs8().unwrap();
        let cipher = openssl::symm::Cipher::aes_128_cbc();
        let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, b"SECRET").unwrap();
        for (text, told) in [
            (vec![], "no key"),
            (pem.clone(), "no key"),
            (key.private_key_to_pem_pkcs8().unwrap(), "no certificate"),
            ([&other[..], &pem].concat(), "another certificate's"),
            ([&locked[..], &pem].concat(), "not encrypted"),
        ] {
            let error = Identity::from_pem(&text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("SECRET"), "{error}");
        }
        for der in [&b""[..], b"SECRET"] {
            let error = Identity::from_pkcs12(der).unwrap_err().to_string();
            assert!(error.contains("PKCS#12") && !error.contains("SECRET"), "{error}");
        }
    }
}
