//! The LUKS header, version 1: reading, making, and getting at the master key.
//!
//! A passphrase and a slot's salt make a key (PBKDF2) that deciphers the slot's material; the
//! material is the master key, spread over stripes so that a part of it says nothing (anti-forensic
//! splitting). A digest tells whether the master key is right. Everything read is bounded: stripes,
//! key lengths and iterations.
//! Source: LUKS On-Disk Format Specification, version 1.2.3.

#![expect(clippy::disallowed_methods, reason = "how long a passphrase takes is the host's time")]

use std::io;

use block::{BlockDriver, invalid};
use pbkdf2::pbkdf2_hmac;
use qapi::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::cipher::{Cipher, SECTOR};

const MAGIC: &[u8] = b"LUKS\xba\xbe";
const SLOTS: usize = 8;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;
const STRIPES: u32 = 4000;
/// Bytes of the header proper.
const LENGTH: usize = 592;
/// Most iterations that are done for a passphrase: about a minute.
const MOST_ITERATIONS: u32 = 1 << 26;

/// A key slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) active: bool,
    pub(crate) iterations: u32,
    salt: [u8; 32],
    /// Place of the material, in sectors from the header on.
    pub(crate) material: u32,
    pub(crate) stripes: u32,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cipher: String,
    pub(crate) mode: String,
    pub(crate) hash: String,
    /// Place of the data, in sectors.
    pub(crate) payload: u32,
    pub(crate) key_bytes: u32,
    digest: [u8; 20],
    salt: [u8; 32],
    pub(crate) iterations: u32,
    pub(crate) uuid: String,
    pub(crate) slots: [Slot; SLOTS],
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    found.map_or(0, u32::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// A key from a passphrase; `false`: the hash is not known.
fn derive(hash: &str, pass: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) -> bool {
    match hash {
        "sha1" => pbkdf2_hmac::<Sha1>(pass, salt, iterations, out),
        "sha256" => pbkdf2_hmac::<Sha256>(pass, salt, iterations, out),
        "sha512" => pbkdf2_hmac::<Sha512>(pass, salt, iterations, out),
        _ => return false,
    }
    true
}

fn digest(hash: &str, n: u32, data: &[u8]) -> Vec<u8> {
    let n = n.to_be_bytes();
    match hash {
        "sha1" => Sha1::new().chain_update(n).chain_update(data).finalize().to_vec(),
        "sha512" => Sha512::new().chain_update(n).chain_update(data).finalize().to_vec(),
        _ => Sha256::new().chain_update(n).chain_update(data).finalize().to_vec(),
    }
}

/// Mixes a stripe: each piece of a hash's length is replaced by its hash.
fn diffuse(hash: &str, stripe: &mut [u8]) {
    let len = match hash {
        "sha1" => 20,
        "sha512" => 64,
        _ => 32,
    };
    for (n, piece) in (0u32..).zip(stripe.chunks_mut(len)) {
        let mixed = digest(hash, n, piece);
        let len = piece.len();
        piece.copy_from_slice(mixed.get(..len).unwrap_or_default());
    }
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (a, b) in into.iter_mut().zip(other) {
        *a ^= b;
    }
}

/// The key that is spread over stripes.
fn merge(hash: &str, split: &[u8], key_bytes: usize) -> Vec<u8> {
    let mut all = vec![0; key_bytes];
    let stripes = split.chunks_exact(key_bytes.max(1));
    let last = stripes.len().saturating_sub(1);
    for (n, stripe) in stripes.enumerate() {
        xor(&mut all, stripe);
        if n < last {
            diffuse(hash, &mut all);
        }
    }
    all
}

fn split(hash: &str, key: &[u8], stripes: u32) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut all = vec![0; key.len()];
    for _ in 1..stripes {
        let mut stripe = vec![0; key.len()];
        host::fill_random(&mut stripe)?;
        xor(&mut all, &stripe);
        diffuse(hash, &mut all);
        out.extend(stripe);
    }
    xor(&mut all, key);
    out.extend(all);
    Ok(out)
}

/// How many iterations take so many milliseconds here.
fn measure(hash: &str, milliseconds: u64) -> u32 {
    const PROBE: u32 = 1 << 14;
    let begin = std::time::Instant::now();
    let mut out = [0; 32];
    derive(hash, b"password", b"salt", PROBE, &mut out);
    let took = begin.elapsed().as_nanos().max(1);
    let count = u128::from(PROBE) * u128::from(milliseconds) * 1_000_000 / took;
    u32::try_from(count).unwrap_or(u32::MAX).clamp(1000, MOST_ITERATIONS)
}

/// What a new header is to be.
pub(crate) struct Wish<'a> {
    pub(crate) cipher_alg: &'a str,
    pub(crate) cipher_mode: &'a str,
    pub(crate) iv: String,
    pub(crate) hash: &'a str,
    pub(crate) milliseconds: u64,
    pub(crate) pass: &'a [u8],
}

impl Header {
    /// Reads and checks; `None`: it is no header of LUKS.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Header>> {
        if bytes.get(..6) != Some(MAGIC) || bytes.len() < LENGTH {
            return Ok(None);
        }
        let version = word(bytes, 4) & 0xffff;
        if version != 1 {
            return Err(invalid(format!("LUKS version {version} is not supported")));
        }
        let field = |at: usize, len: usize| text(bytes.get(at..at + len).unwrap_or_default());
        let mut slots: [Slot; SLOTS] = Default::default();
        for (slot, at) in slots.iter_mut().zip((208..).step_by(48)) {
            *slot = Slot {
                active: word(bytes, at) == ACTIVE,
                iterations: word(bytes, at + 4),
                salt: array(bytes, at + 8),
                material: word(bytes, at + 40),
                stripes: word(bytes, at + 44),
            };
            if slot.stripes == 0 || slot.stripes > 1 << 16 {
                return Err(invalid("Keyslot is corrupted (stripes)"));
            }
        }
        let header = Header {
            cipher: field(8, 32),
            mode: field(40, 32),
            hash: field(72, 32),
            payload: word(bytes, 104),
            key_bytes: word(bytes, 108),
            digest: array(bytes, 112),
            salt: array(bytes, 132),
            iterations: word(bytes, 164),
            uuid: field(168, 40),
            slots,
        };
        if header.key_bytes == 0 || header.key_bytes > 512 {
            return Err(invalid("LUKS key length is out of range"));
        }
        Ok(Some(header))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; LENGTH];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(slot) = out.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
        };
        put(0, MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, self.cipher.as_bytes());
        put(40, self.mode.as_bytes());
        put(72, self.hash.as_bytes());
        put(104, &self.payload.to_be_bytes());
        put(108, &self.key_bytes.to_be_bytes());
        put(112, &self.digest);
        put(132, &self.salt);
        put(164, &self.iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (slot, at) in self.slots.iter().zip((208..).step_by(48)) {
            put(at, &if slot.active { ACTIVE } else { INACTIVE }.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.material.to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        out
    }

    fn slot_cipher(&self, slot: &Slot, pass: &[u8]) -> Option<Cipher> {
        let mut key = vec![0; self.key_bytes as usize];
        if slot.iterations == 0 || slot.iterations > MOST_ITERATIONS {
            return None;
        }
        derive(&self.hash, pass, &slot.salt, slot.iterations, &mut key)
            .then(|| Cipher::new(&self.cipher, &self.mode, &key))?
    }

    /// The master key, if a slot opens with the passphrase; the slot's number beside it.
    pub(crate) fn unlock(
        &self,
        file: &dyn BlockDriver,
        base: u64,
        pass: &[u8],
    ) -> io::Result<Option<(Vec<u8>, usize)>> {
        let key_bytes = self.key_bytes as usize;
        for (n, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.active) {
            let Some(cipher) = self.slot_cipher(slot, pass) else { continue };
            let len = key_bytes * slot.stripes as usize;
            let mut material = vec![0; len.next_multiple_of(SECTOR)];
            let at = base.saturating_add(u64::from(slot.material) * SECTOR as u64);
            if at.saturating_add(material.len() as u64) > file.len().next_multiple_of(4096) {
                continue;
            }
            file.read(at, &mut material)?;
            cipher.run(false, 0, &mut material);
            let key = merge(&self.hash, material.get(..len).unwrap_or_default(), key_bytes);
            if self.is_key(&key) {
                return Ok(Some((key, n)));
            }
        }
        Ok(None)
    }

    fn is_key(&self, key: &[u8]) -> bool {
        let mut found = [0; 20];
        self.iterations > 0
            && self.iterations <= MOST_ITERATIONS
            && derive(&self.hash, key, &self.salt, self.iterations, &mut found)
            && found == self.digest
    }

    /// A new header with the passphrase in its first slot: the bytes up to the payload, and the
    /// master key.
    pub(crate) fn create(wish: &Wish<'_>) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let bits = match wish.cipher_alg {
            "aes-128" => 16,
            "aes-192" => 24,
            "aes-256" => 32,
            _ => return Err(invalid("the cipher algorithm is not supported")),
        };
        let key_bytes: u32 = if wish.cipher_mode == "xts" { bits * 2 } else { bits };
        let mut key = vec![0; key_bytes as usize];
        host::fill_random(&mut key)?;
        let mut header = Header {
            cipher: "aes".into(),
            mode: format!("{}-{}", wish.cipher_mode, wish.iv),
            hash: wish.hash.to_owned(),
            key_bytes,
            iterations: measure(wish.hash, (wish.milliseconds / 8).max(1)),
            uuid: uuid()?,
            ..Header::default()
        };
        host::fill_random(&mut header.salt)?;
        // Material begins at whole 4 KiB.
        let room = (key_bytes * STRIPES).div_ceil(4096) * 8;
        for (n, slot) in (0u32..).zip(&mut header.slots) {
            (slot.material, slot.stripes) = (8 + n * room, STRIPES);
        }
        header.payload = 8 + room * u32::try_from(SLOTS).unwrap_or(8);
        let mut found = [0; 20];
        if !derive(&header.hash, &key, &header.salt, header.iterations, &mut found)
            || Cipher::new(&header.cipher, &header.mode, &key).is_none()
        {
            return Err(invalid("the cipher or the hash is not supported"));
        }
        header.digest = found;
        let mut out = vec![0; header.payload as usize * SECTOR];
        let material = header.fill_slot(0, &key, wish.pass, wish.milliseconds)?;
        let at = header.slots.first().map_or(0, |slot| slot.material as usize * SECTOR);
        for (at, bytes) in [(at, material), (0, header.encode())] {
            if let Some(slot) = out.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(&bytes);
            }
        }
        Ok((out, key))
    }

    /// Puts a passphrase into a slot; the material comes back.
    fn fill_slot(
        &mut self,
        n: usize,
        key: &[u8],
        pass: &[u8],
        milliseconds: u64,
    ) -> io::Result<Vec<u8>> {
        let iterations = measure(&self.hash, milliseconds);
        let mut salt = [0; 32];
        host::fill_random(&mut salt)?;
        let Some(slot) = self.slots.get_mut(n) else {
            return Err(invalid("there is no such key slot"));
        };
        (slot.iterations, slot.salt, slot.active, slot.stripes) = (iterations, salt, true, STRIPES);
        let slot = slot.clone();
        let mut material = split(&self.hash, key, STRIPES)?;
        material.resize(material.len().next_multiple_of(SECTOR), 0);
        let cipher = self.slot_cipher(&slot, pass).ok_or_else(|| invalid("no cipher"))?;
        cipher.run(true, 0, &mut material);
        Ok(material)
    }

    /// Adds a passphrase: a free slot, or the one that is named.
    pub(crate) fn add_pass(
        &mut self,
        file: &dyn BlockDriver,
        base: u64,
        slot: Option<usize>,
        key: &[u8],
        (pass, milliseconds): (&[u8], u64),
    ) -> io::Result<()> {
        let free = self.slots.iter().position(|slot| !slot.active);
        let n = slot
            .or(free)
            .ok_or_else(|| invalid("Can't add a keyslot - all keyslots are in use"))?;
        let material = self.fill_slot(n, key, pass, milliseconds)?;
        let at = self.slots.get(n).map_or(0, |slot| u64::from(slot.material) * SECTOR as u64);
        file.write(base + at, &material)?;
        file.write(base, &self.encode())
    }

    /// Wipes a slot.
    pub(crate) fn erase(&mut self, file: &dyn BlockDriver, base: u64, n: usize) -> io::Result<()> {
        let key_bytes = self.key_bytes;
        let Some(slot) = self.slots.get_mut(n) else { return Ok(()) };
        (slot.active, slot.iterations, slot.salt) = (false, 0, [0; 32]);
        let at = base + u64::from(slot.material) * SECTOR as u64;
        let len = u64::from(key_bytes) * u64::from(slot.stripes);
        let mut noise = vec![0; usize::try_from(len).unwrap_or(0)];
        host::fill_random(&mut noise)?;
        file.write(base, &self.encode())?;
        file.write(at, &noise)
    }

    /// What tools tell.
    pub(crate) fn info(&self, in_qcow2: bool) -> Value {
        let (mode, iv) = self.mode.split_once('-').unwrap_or((&self.mode, ""));
        let (iv, iv_hash) = iv.split_once(':').unwrap_or((iv, ""));
        let bits = if mode == "xts" { self.key_bytes * 4 } else { self.key_bytes * 8 };
        let int = |n: u32| Value::Int(i64::from(n));
        let mut out = Value::map([("ivgen-alg", Value::from(iv))]);
        if !iv_hash.is_empty() {
            out.set("ivgen-hash-alg", Value::from(iv_hash));
        }
        out.set("detached-header", Value::Bool(false));
        out.set("hash-alg", Value::from(self.hash.as_str()));
        out.set("cipher-alg", Value::from(format!("{}-{bits}", self.cipher).as_str()));
        out.set("uuid", Value::from(self.uuid.as_str()));
        if in_qcow2 {
            out.set("format", Value::from("luks"));
        }
        out.set("cipher-mode", Value::from(mode));
        let slots = self.slots.iter().map(|slot| {
            let mut out = Value::map([("active", Value::Bool(slot.active))]);
            if slot.active {
                out.set("iters", int(slot.iterations));
            }
            let offset = i64::from(slot.material) * 512;
            out.set("key-offset", Value::Int(offset));
            if slot.active {
                out.set("stripes", int(slot.stripes));
            }
            out
        });
        out.set("slots", Value::List(slots.collect()));
        out.set("payload-offset", Value::Int(i64::from(self.payload) * 512));
        out.set("master-key-iters", int(self.iterations));
        out
    }
}

/// A random UUID (version 4).
fn uuid() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    host::fill_random(&mut bytes)?;
    let n = u128::from_be_bytes(bytes) & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{n:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    Ok([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_and_merged() {
        let key: Vec<u8> = (0..64).collect();
        for hash in ["sha1", "sha256", "sha512"] {
            assert_eq!(merge(hash, &split(hash, &key, 100).unwrap(), 64), key);
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        let wish = Wish {
            cipher_alg: "aes-256",
            cipher_mode: "xts",
            iv: "plain64".into(),
            hash: "sha256",
            milliseconds: 1,
            pass: b"x",
        };
        let (good, _) = Header::create(&wish).unwrap();
        assert_eq!(good.len(), 2_068_480);
        let header = Header::parse(&good).unwrap().unwrap();
        assert_eq!(header.encode(), good[..LENGTH]);
        for at in 0..LENGTH {
            let mut bad = good[..LENGTH].to_vec();
            bad[at] ^= 0xff;
            _ = Header::parse(&bad);
        }
        assert!(Header::parse(&good[..500]).unwrap().is_none());
    }
}
