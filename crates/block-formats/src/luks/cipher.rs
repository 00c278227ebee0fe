//! Ciphers of disks: AES in XTS and CBC mode, sector by sector.
//!
//! A sector of 512 bytes is enciphered on its own; its number makes the tweak or the initial vector
//! (`plain`, `plain64`, `essiv:sha256`). Blocks of a sector go through the cipher together, so that
//! the processor's instructions are kept busy. Not here: serpent, twofish, cast5, LRW, CTR.
//! Source: IEEE 1619 (XTS), NIST SP 800-38A (CBC), cryptsetup's description of IV generators.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};
use sha2::{Digest, Sha256};

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

enum Aes {
    A128(Box<Aes128>),
    A192(Box<Aes192>),
    A256(Box<Aes256>),
}

impl Aes {
    fn new(key: &[u8]) -> Option<Aes> {
        match key.len() {
            16 => Aes128::new_from_slice(key).ok().map(|aes| Aes::A128(Box::new(aes))),
            24 => Aes192::new_from_slice(key).ok().map(|aes| Aes::A192(Box::new(aes))),
            32 => Aes256::new_from_slice(key).ok().map(|aes| Aes::A256(Box::new(aes))),
            _ => None,
        }
    }
    fn encrypt(&self, blocks: &mut [Block]) {
        match self {
            Aes::A128(aes) => aes.encrypt_blocks(blocks),
            Aes::A192(aes) => aes.encrypt_blocks(blocks),
            Aes::A256(aes) => aes.encrypt_blocks(blocks),
        }
    }
    fn decrypt(&self, blocks: &mut [Block]) {
        match self {
            Aes::A128(aes) => aes.decrypt_blocks(blocks),
            Aes::A192(aes) => aes.decrypt_blocks(blocks),
            Aes::A256(aes) => aes.decrypt_blocks(blocks),
        }
    }
}

enum Mode {
    /// The key of the tweaks.
    Xts(Aes),
    Cbc,
}

enum Iv {
    Plain,
    Plain64,
    /// The key is the hash of the key.
    Essiv(Aes),
}

/// A cipher with its key.
pub(crate) struct Cipher {
    key: Aes,
    mode: Mode,
    iv: Iv,
}

fn block(bytes: [u8; 16]) -> Block {
    Block::from(bytes)
}

impl Cipher {
    /// `mode` as in a LUKS header: `xts-plain64`, `cbc-essiv:sha256`; `None`: not known.
    pub(crate) fn new(name: &str, mode: &str, key: &[u8]) -> Option<Cipher> {
        if name != "aes" {
            return None;
        }
        let (mode, iv) = mode.split_once('-')?;
        let (data, mode) = match mode {
            "xts" => {
                let (data, tweak) = key.split_at_checked(key.len() / 2)?;
                (data, Mode::Xts(Aes::new(tweak)?))
            }
            "cbc" => (key, Mode::Cbc),
            _ => return None,
        };
        let iv = match iv {
            "plain" => Iv::Plain,
            "plain64" => Iv::Plain64,
            "essiv:sha256" => Iv::Essiv(Aes::new(&Sha256::digest(key))?),
            _ => return None,
        };
        Some(Cipher { key: Aes::new(data)?, mode, iv })
    }

    fn vector(&self, sector: u64) -> Block {
        let wide = match self.iv {
            Iv::Plain => sector & 0xffff_ffff,
            _ => sector,
        };
        let mut iv = [block(u128::from(wide).to_le_bytes())];
        if let Iv::Essiv(key) = &self.iv {
            key.encrypt(&mut iv);
        }
        iv[0]
    }

    /// Deciphers or enciphers whole sectors, the first of which has this number.
    pub(crate) fn run(&self, encrypt: bool, sector: u64, data: &mut [u8]) {
        let mut blocks = [Block::default(); SECTOR / 16];
        for (n, sector_data) in (0u64..).zip(data.chunks_mut(SECTOR)) {
            let blocks = blocks.get_mut(..sector_data.len() / 16).unwrap_or_default();
            for (block, bytes) in blocks.iter_mut().zip(sector_data.chunks(16)) {
                block.copy_from_slice(bytes);
            }
            let iv = self.vector(sector.wrapping_add(n));
            match &self.mode {
                Mode::Xts(tweak) => self.xts(tweak, encrypt, iv, blocks),
                Mode::Cbc if encrypt => self.cbc_encrypt(iv, blocks),
                Mode::Cbc => self.cbc_decrypt(iv, blocks),
            }
            for (block, bytes) in blocks.iter().zip(sector_data.chunks_mut(16)) {
                bytes.copy_from_slice(block);
            }
        }
    }

    fn xts(&self, tweak: &Aes, encrypt: bool, iv: Block, blocks: &mut [Block]) {
        let mut first = [iv];
        tweak.encrypt(&mut first);
        let mut t = u128::from_le_bytes(first[0].into());
        let mut tweaks = [0u128; SECTOR / 16];
        for slot in &mut tweaks {
            *slot = t;
            t = t << 1 ^ if t >> 127 == 1 { 0x87 } else { 0 };
        }
        let mix = |blocks: &mut [Block]| {
            for (block, t) in blocks.iter_mut().zip(&tweaks) {
                let bytes: [u8; 16] = (*block).into();
                *block = self::block((u128::from_le_bytes(bytes) ^ t).to_le_bytes());
            }
        };
        mix(blocks);
        if encrypt {
            self.key.encrypt(blocks);
        } else {
            self.key.decrypt(blocks);
        }
        mix(blocks);
    }

    fn cbc_encrypt(&self, iv: Block, blocks: &mut [Block]) {
        let mut last = iv;
        for block in blocks {
            for (byte, l) in block.iter_mut().zip(&last) {
                *byte ^= l;
            }
            self.key.encrypt(std::slice::from_mut(block));
            last = *block;
        }
    }

    fn cbc_decrypt(&self, iv: Block, blocks: &mut [Block]) {
        let mut last = iv;
        for block in blocks {
            let next = *block;
            self.key.decrypt(std::slice::from_mut(block));
            for (byte, l) in block.iter_mut().zip(&last) {
                *byte ^= l;
            }
            last = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_standard_comes_out() {
        // IEEE 1619, vector 2 (32 bytes, data unit 0x3333333333).
        let mut key = vec![0x11; 16];
        key.extend([0x22; 16]);
        let cipher = Cipher::new("aes", "xts-plain64", &key).unwrap();
        let mut data = vec![0x44; 32];
        cipher.run(true, 0x33_3333_3333, &mut data);
        assert_eq!(data[..8], [0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e]);
        cipher.run(false, 0x33_3333_3333, &mut data);
        assert!(data.iter().all(|b| *b == 0x44));
    }

    #[test]
    fn all_modes_undo_themselves() {
        for mode in ["xts-plain", "xts-plain64", "cbc-plain64", "cbc-essiv:sha256"] {
            let cipher = Cipher::new("aes", mode, &[7; 32]).unwrap();
            let old: Vec<u8> = (0..1024u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut data = old.clone();
            cipher.run(true, 5, &mut data);
            assert!(data != old && data[..512] != data[512..], "{mode}");
            cipher.run(false, 5, &mut data);
            assert!(data == old, "{mode}");
        }
        assert!(Cipher::new("twofish", "xts-plain64", &[0; 32]).is_none());
        assert!(Cipher::new("aes", "xts", &[0; 32]).is_none());
        assert!(Cipher::new("aes", "xts-plain64", &[0; 31]).is_none());
    }
}
