//! Keys that sign payloads and check them.

use std::path::Path;

use openssl::pkey::{PKey, Private, Public};

use super::Error;

/// Where the SDK keeps the private half of the developer key.
pub const PRIVATE_KEY: &str = "/usr/share/update_engine/update-payload-key.key.pem";

/// Where it keeps the public half.
pub const PUBLIC_KEY: &str = "/usr/share/update_engine/update-payload-key.pub.pem";

/// The public half of the developer key: payloads of local builds are signed with the other half.
pub const DEVELOPER_KEY: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzFS5uVJ+pgibcFLD3kbY
k02Edj0HXq31ZT/Bva1sLp3Ysv+QTv/ezjf0gGFfASdgpz6G+zTipS9AIrQr0yFR
+tdp1ZsHLGxVwvUoXFftdapqlyj8uQcWjjbN7qJsZu0Ett/qo93hQ5nHW7Sv5dRm
/ZsDFqk2Uvyaoef4bF9r03wYpZq7K3oALZ2smETv+A5600mj1Xg5M52QFU67UHls
EFkZphrGjiqiCdp9AAbAvE7a5rFcJf86YR73QX08K8BX7OMzkn3DsqdnWvLB3l3W
6kvIuP+75SrMNeYAcU8PI1+bzLcAG3VN3jA78zeKALgynUNH50mxuiiU3DO4DZ+p
5QIDAQAB
-----END PUBLIC KEY-----
";

/// The private key in a PEM file.
///
/// # Errors
/// [`Error::Key`], also when it is not an RSA key.
pub fn private_key(path: &Path) -> Result<PKey<Private>, Error> {
    let failed = |source| Error::Key { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    let key = PKey::private_key_from_pem(&pem).map_err(|e| failed(e.into()))?;
    match key.rsa() {
        Ok(_) => Ok(key),
        Err(_) => Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not an RSA key"))),
    }
}

/// The public half of a key that signs payloads.
#[derive(Clone, Debug)]
pub struct VerifyingKey(PKey<Public>);

impl VerifyingKey {
    /// The key in a PEM text (`PUBLIC KEY`).
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        Ok(Self(PKey::public_key_from_pem(pem)?))
    }

    /// The key in a PEM file.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Key { path: path.to_owned(), source };
        let pem = crate::input::read(path).map_err(failed)?;
        Ok(Self(PKey::public_key_from_pem(&pem).map_err(|e| failed(e.into()))?))
    }

    /// The public half of a private key.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(key: &PKey<Private>) -> Result<Self, Error> {
        Self::from_pem(&key.public_key_to_pem()?)
    }

    /// Whether the signature is of data with this SHA-256.
    pub(super) fn signed(&self, sha256: &[u8], signature: &[u8]) -> bool {
        // A signature that cannot even be read is not valid either.
        let check = || -> Result<bool, openssl::error::ErrorStack> {
            let mut context = openssl::pkey_ctx::PkeyCtx::new(&self.0)?;
            context.verify_init()?;
            context.set_rsa_padding(openssl::rsa::Padding::PKCS1)?;
            context.set_signature_md(openssl::md::Md::sha256())?;
            context.verify(sha256, signature)
        };
        check().unwrap_or(false)
    }
}
