//! `secret`: a password or key, given directly or in a file, perhaps encrypted.
//!
//! With `keyid` the data is AES-256-CBC with PKCS#7 padding under another secret (QEMU's manual,
//! "secret"): the key has 32 bytes, `iv` is 16 bytes in base 64, and the data is base 64, too,
//! where `format=base64`.

use std::fs;
use std::sync::Arc;

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, KeyInit};
use derive::Qapi;
use device::{ObjectBuild, ObjectClass, ObjectType, SecretBytes};
use qapi::{Error, Result};

use crate::base64;

/// The class for the catalog.
pub static CLASS: ObjectClass = ObjectClass::of::<Secret>();

/// How the data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "QCryptoSecretFormat")]
pub enum Format {
    /// As it is.
    Raw,
    /// In base 64.
    Base64,
}

/// Properties of `secret`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no texts either")]
pub struct Props {
    pub data: Option<String>,
    pub file: Option<String>,
    #[qapi(default = "raw")]
    pub format: Format,
    pub keyid: Option<String>,
    pub iv: Option<String>,
}

/// Longest secret in a file; the rest of a longer file is not read.
const LIMIT: u64 = 1 << 20;
const BLOCK: usize = 16;

/// A secret.
pub struct Secret;

impl ObjectType for Secret {
    const NAME: &'static str = "secret";
    const SUMMARY: &'static str = "a password or key";
    type Props = Props;

    fn create(props: Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let key = match &props.keyid {
            None => None,
            Some(id) => {
                let object = at.objects().find(id);
                let missing = || Error::generic(format!("No secret with id '{id}'"));
                let key = object.ok_or_else(missing)?.ability::<SecretBytes>();
                Some(key.ok_or_else(|| {
                    Error::generic(format!("Object with id '{id}' is not a secret"))
                })?)
            }
        };
        at.offer(SecretBytes(value(&props, key.as_ref())?.into()));
        Ok(Arc::new(Secret))
    }
}

fn raw(props: &Props) -> Result<Vec<u8>> {
    match (&props.data, &props.file) {
        (Some(_), Some(_)) => Err(Error::generic("'file' and 'data' are mutually exclusive")),
        (None, None) => Err(Error::generic("Either 'file' or 'data' must be provided")),
        (Some(data), None) => Ok(data.clone().into_bytes()),
        (None, Some(name)) => read(name).map_err(|e| {
            let why = host::reason(&e);
            Error::generic(format!("Unable to read {name}: Failed to open file “{name}”: {why}"))
        }),
    }
}

fn read(name: &str) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(name)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(text: &[u8]) -> Result<Vec<u8>> {
    base64::decode(text).ok_or_else(|| Error::generic("Base64 data contains invalid characters"))
}

/// The secret that the properties describe; `key` is what `keyid` names.
pub fn value(props: &Props, key: Option<&SecretBytes>) -> Result<Vec<u8>> {
    let mut data = raw(props)?;
    if let Some(SecretBytes(key)) = key {
        if props.format == Format::Base64 {
            data = decode(&data)?;
        }
        return decrypt(&data, key, props.iv.as_deref());
    }
    if props.format == Format::Base64 { decode(&data) } else { Ok(data) }
}

fn decrypt(data: &[u8], key: &[u8], iv: Option<&str>) -> Result<Vec<u8>> {
    let key: &[u8; 32] =
        key.try_into().map_err(|_| Error::generic("Key should be 32 bytes in length"))?;
    let iv = iv.ok_or_else(|| Error::generic("IV is required to decrypt secret"))?;
    let iv = decode(iv.as_bytes())?;
    let mut last: [u8; BLOCK] = iv.as_slice().try_into().map_err(|_| {
        Error::generic(format!("IV should be {BLOCK} bytes in length not {}", iv.len()))
    })?;
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    if !rest.is_empty() {
        let len = data.len();
        let text = format!("Length {len} must be a multiple of block size {BLOCK}");
        return Err(Error::generic(text));
    }
    let cipher = Aes256::new(key.into());
    let mut out = Vec::with_capacity(data.len());
    for block in blocks {
        let mut plain = (*block).into();
        cipher.decrypt_block(&mut plain);
        out.extend(plain.iter().zip(last).map(|(p, l)| p ^ l));
        last = *block;
    }
    let padding = out.last().copied().unwrap_or(0);
    let keep = out.len().checked_sub(padding.into());
    let Some(keep) = keep.filter(|_| (1..=BLOCK).contains(&padding.into())) else {
        let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
        return Err(Error::generic(text));
    };
    out.truncate(keep);
    Ok(out)
}
