//! `luks`: an encrypted disk behind a LUKS header, and what `qcow2` shares with it.
//!
//! The master key is got with a secret (`key-secret`); without it only the header can be looked at.
//! Sectors are enciphered by their number behind the header. Requests of any alignment are done in
//! whole sectors. Options are QEMU's; ciphers: AES in XTS and CBC mode; hashes: sha1, sha256,
//! sha512. Not here: other ciphers and hashes, LUKS version 2, detached headers.
//! Source: LUKS On-Disk Format Specification 1.2.3; QEMU's manual, "luks".

mod cipher;
mod header;

use std::io;
use std::sync::Arc;

use block::{
    BlockClass, BlockDriver, Child, CreateOption, Creation, Extent, FormatInfo, Opening,
    Preallocation,
};
use parking_lot::Mutex;
use qapi::{Error, Result};

pub(crate) use cipher::{Cipher, SECTOR};
pub(crate) use header::{Header, Wish};

/// Most bytes of a header that are looked at.
const HEAD: usize = 592;

/// The class for the catalog.
pub static CLASS: BlockClass = BlockClass {
    name: "luks",
    protocol: false,
    probe: |head| if head.starts_with(b"LUKS\xba\xbe\0\x01") { 100 } else { 0 },
    open,
    create: Some(create),
    create_options: OPTIONS,
    describe,
    has_backing: false,
};

const OPTIONS: &[CreateOption] = &[
    CreateOption { name: "cipher-alg", kind: "str", help: "Name of encryption cipher algorithm" },
    CreateOption { name: "cipher-mode", kind: "str", help: "Name of encryption cipher mode" },
    CreateOption { name: "hash-alg", kind: "str", help: "Name of encryption hash algorithm" },
    CreateOption { name: "iter-time", kind: "num", help: "Time to spend in PBKDF in milliseconds" },
    CreateOption { name: "ivgen-alg", kind: "str", help: "Name of IV generator algorithm" },
    CreateOption {
        name: "ivgen-hash-alg",
        kind: "str",
        help: "Name of IV generator hash algorithm",
    },
    CreateOption {
        name: "key-secret",
        kind: "str",
        help: "ID of the secret that provides the keyslot passphrase",
    },
    CreateOption { name: "preallocation", kind: "str", help: "Preallocation mode" },
    CreateOption { name: "size", kind: "size", help: "Virtual disk size" },
];

/// Options for changing keys of an image.
pub(crate) const AMEND: &[CreateOption] = &[
    CreateOption { name: "iter-time", kind: "num", help: "Time to spend in PBKDF in milliseconds" },
    CreateOption {
        name: "keyslot",
        kind: "num",
        help: "Select a single keyslot to modify explicitly",
    },
    CreateOption {
        name: "new-secret",
        kind: "str",
        help: "New secret to set in the matching keyslots. Empty string to erase",
    },
    CreateOption {
        name: "old-secret",
        kind: "str",
        help: "Select all keyslots that match this password",
    },
    CreateOption {
        name: "state",
        kind: "str",
        help: "Select new state of affected keyslots (active/inactive)",
    },
];

/// Reads bytes of any alignment; `place` is where they lie, and `place - zero` gives the sectors'
/// numbers.
pub(crate) fn read_sectors(
    file: &dyn BlockDriver,
    cipher: &Cipher,
    place: u64,
    zero: u64,
    into: &mut [u8],
) -> io::Result<()> {
    let sector = SECTOR as u64;
    let skip = place.wrapping_sub(zero) % sector;
    let number = place.wrapping_sub(zero) / sector;
    if skip == 0 && into.len().is_multiple_of(SECTOR) {
        file.read(place, into)?;
        cipher.run(false, number, into);
        return Ok(());
    }
    let skip_len = usize::try_from(skip).unwrap_or(0);
    let mut whole = vec![0; (skip_len + into.len()).next_multiple_of(SECTOR)];
    file.read(place - skip, &mut whole)?;
    cipher.run(false, number, &mut whole);
    let part = whole.get(skip_len..skip_len + into.len()).unwrap_or_default();
    into.copy_from_slice(part);
    Ok(())
}

/// Writes bytes of any alignment; see [`read_sectors`].
pub(crate) fn write_sectors(
    file: &dyn BlockDriver,
    cipher: &Cipher,
    place: u64,
    zero: u64,
    data: &[u8],
) -> io::Result<()> {
    let sector = SECTOR as u64;
    let skip = place.wrapping_sub(zero) % sector;
    let number = place.wrapping_sub(zero) / sector;
    let skip_len = usize::try_from(skip).unwrap_or(0);
    let mut whole = vec![0; (skip_len + data.len()).next_multiple_of(SECTOR)];
    if whole.len() != data.len() {
        file.read(place - skip, &mut whole)?;
        cipher.run(false, number, &mut whole);
    }
    if let Some(part) = whole.get_mut(skip_len..skip_len + data.len()) {
        part.copy_from_slice(data);
    }
    cipher.run(true, number, &mut whole);
    file.write(place - skip, &whole)
}

/// Opens a header with a secret.
pub(crate) fn unlock(
    header: &Header,
    file: &dyn BlockDriver,
    base: u64,
    pass: &[u8],
) -> Result<(Cipher, Vec<u8>)> {
    let failed = |error: io::Error| Error::generic(host::reason(&error));
    let found = header.unlock(file, base, pass).map_err(failed)?;
    let (key, _) =
        found.ok_or_else(|| Error::generic("Invalid password, cannot unlock any keyslot"))?;
    let cipher = Cipher::new(&header.cipher, &header.mode, &key).ok_or_else(|| {
        Error::generic(format!("Algorithm '{}-{}' is not supported", header.cipher, header.mode))
    })?;
    Ok((cipher, key))
}

/// Reads the header that begins at `base`.
pub(crate) fn read_header(file: &dyn BlockDriver, base: u64) -> Result<Header> {
    let mut head = vec![0; HEAD];
    let failed = |error: io::Error| Error::generic(host::reason(&error));
    file.read(base, &mut head).map_err(failed)?;
    let found = Header::parse(&head).map_err(failed)?;
    found.ok_or_else(|| Error::generic("Volume is not in LUKS format"))
}

/// A header as options wish it; their names begin with `prefix`.
pub(crate) fn make_header(new: &Creation, prefix: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let option = |name: &str| new.option(&format!("{prefix}{name}"));
    let secret = option("key-secret").ok_or_else(|| {
        Error::generic(format!("Parameter '{prefix}key-secret' is required for cipher"))
    })?;
    let pass = new.keys.secret(secret)?;
    let iv = option("ivgen-alg").unwrap_or("plain64");
    // Only this one has a hash of its own.
    let iv_hash = (iv == "essiv").then(|| option("ivgen-hash-alg").unwrap_or("sha256"));
    let wish = Wish {
        cipher_alg: option("cipher-alg").unwrap_or("aes-256"),
        cipher_mode: option("cipher-mode").unwrap_or("xts"),
        iv: iv_hash.map_or_else(|| iv.to_owned(), |hash| format!("{iv}:{hash}")),
        hash: option("hash-alg").unwrap_or("sha256"),
        milliseconds: option("iter-time").and_then(|t| t.parse().ok()).unwrap_or(2000),
        pass: &pass,
    };
    Header::create(&wish).map_err(|error| Error::generic(host::reason(&error)))
}

/// Changes key slots as options say; their names begin with `prefix`.
pub(crate) fn amend(
    header: &mut Header,
    file: &dyn BlockDriver,
    base: u64,
    key: &[u8],
    (change, prefix, force): (&Creation, &str, bool),
) -> Result<()> {
    let failed = |error: io::Error| Error::generic(host::reason(&error));
    let option = |name: &str| change.option(&format!("{prefix}{name}"));
    let slot = option("keyslot").map(|text| text.parse::<usize>().unwrap_or(usize::MAX));
    if slot.is_some_and(|slot| slot >= header.slots.len()) {
        let text = "Invalid keyslot %s. Keyslot must be between 0 and 7";
        return Err(Error::generic(text.replace("%s", option("keyslot").unwrap_or(""))));
    }
    let old = option("old-secret").map(|id| change.keys.secret(id)).transpose()?;
    match option("state") {
        Some("active") => {
            let secret = option("new-secret")
                .ok_or_else(|| Error::generic("'new-secret' is required to activate a keyslot"))?;
            if old.is_some() {
                let text = "'old-secret' must not be given when activating keyslots";
                return Err(Error::generic(text));
            }
            let used = slot.and_then(|n| header.slots.get(n)).is_some_and(|slot| slot.active);
            if let (Some(n), true, false) = (slot, used, force) {
                let text =
                    format!("Refusing to overwrite active keyslot {n} - please erase it first");
                return Err(Error::generic(text));
            }
            let pass = change.keys.secret(secret)?;
            let time = option("iter-time").and_then(|t| t.parse().ok()).unwrap_or(2000);
            header.add_pass(file, base, slot, key, (&pass, time)).map_err(failed)
        }
        Some("inactive") => erase(header, file, base, (slot, old.as_deref(), force)),
        _ => Err(Error::generic("Parameter 'state' is missing")),
    }
}

fn erase(
    header: &mut Header,
    file: &dyn BlockDriver,
    base: u64,
    (slot, old, force): (Option<usize>, Option<&[u8]>, bool),
) -> Result<()> {
    let failed = |error: io::Error| Error::generic(host::reason(&error));
    let active = header.slots.iter().filter(|slot| slot.active).count();
    let mut gone: Vec<usize> = Vec::new();
    if let Some(pass) = old {
        // Every slot that this passphrase opens.
        let mut left = header.clone();
        while let Some((_, n)) = left.unlock(file, base, pass).map_err(failed)? {
            if let Some(slot) = left.slots.get_mut(n) {
                slot.active = false;
            }
            gone.extend(slot.is_none_or(|slot| slot == n).then_some(n));
        }
        if gone.is_empty() {
            return Err(Error::generic(
                "No keyslots match given (old) password for erase operation",
            ));
        }
    } else if let Some(n) = slot {
        let used = header.slots.get(n).is_some_and(|slot| slot.active);
        if !used && !force {
            return Err(Error::generic(format!("Given keyslot {n} is already erased (inactive) ")));
        }
        gone.push(n);
    } else {
        return Err(Error::generic(
            "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
        ));
    }
    if gone.len() >= active && !force {
        let text = if old.is_some() {
            "All the active keyslots match the (old) password that was given and erasing them will erase all the data in the image irreversibly - refusing operation".to_owned()
        } else {
            format!(
                "Attempt to erase the only active keyslot {} which will erase all the data in the image irreversibly - refusing operation",
                gone.first().copied().unwrap_or(0)
            )
        };
        return Err(Error::generic(text));
    }
    for n in gone {
        header.erase(file, base, n).map_err(failed)?;
    }
    Ok(())
}

struct Luks {
    file: Child,
    header: Mutex<Header>,
    payload: u64,
    /// Absent where only the header is looked at.
    cipher: Option<(Cipher, Vec<u8>)>,
}

impl Luks {
    fn cipher(&self) -> io::Result<&Cipher> {
        self.cipher
            .as_ref()
            .map(|(cipher, _)| cipher)
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

impl BlockDriver for Luks {
    fn len(&self) -> u64 {
        self.file.node().len().saturating_sub(self.payload)
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let place = self.payload + at;
        read_sectors(&**self.file.node().driver(), self.cipher()?, place, self.payload, into)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let place = self.payload + at;
        write_sectors(&**self.file.node().driver(), self.cipher()?, place, self.payload, data)
    }
    fn flush(&self) -> io::Result<()> {
        self.file.node().driver().flush()
    }
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        let end = len.checked_add(self.payload).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.node().driver().truncate(end, how)
    }
    fn extent(&self, _: u64, len: u64) -> io::Result<Extent> {
        // A hole below is no zero here, and what lies there is not what is read.
        Ok(Extent { len, data: true, allocated: true, ..Extent::default() })
    }
    fn format_info(&self) -> FormatInfo {
        let specific = Some(self.header.lock().info(false));
        FormatInfo { specific, ..FormatInfo::default() }
    }
    fn amend_options(&self) -> &'static [CreateOption] {
        AMEND
    }
    fn amend(&self, change: &Creation, force: bool, _: &dyn Fn(u64, u64)) -> Result<()> {
        let Some((_, key)) = &self.cipher else {
            return Err(Error::generic("the image is not unlocked"));
        };
        let file = self.file.node().driver().clone();
        amend(&mut self.header.lock(), &*file, 0, key, (change, "", force))
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let secret = block::take::<String>(&mut at.options, "key-secret", source)?;
    let file = at.child("file")?;
    at.filename = file.node().path().to_owned();
    let driver = file.node().driver().clone();
    let header = read_header(&*driver, 0)?;
    let payload = u64::from(header.payload) * SECTOR as u64;
    if payload > driver.len() {
        return Err(Error::generic("LUKS payload is overlapping with the header"));
    }
    let cipher = match secret {
        Some(id) => {
            let pass = at.keys().secret(&id)?;
            Some(unlock(&header, &*driver, 0, &pass)?)
        }
        None if at.is_header_only() => None,
        None => return Err(Error::generic("Parameter 'key-secret' is required for cipher")),
    };
    Ok(Arc::new(Luks { file, header: Mutex::new(header), payload, cipher }))
}

fn create(new: &Creation) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let (head, _) = make_header(new, "")?;
    let fail = |error: io::Error| {
        Error::generic(format!("Could not create '{}': {}", new.filename, host::reason(&error)))
    };
    let path = new.filename.strip_prefix("file:").unwrap_or(&new.filename);
    let size =
        new.size.checked_next_multiple_of(512).and_then(|n| n.checked_add(head.len() as u64));
    let size = size.ok_or_else(|| Error::generic("The requested file size is too large"))?;
    let options = new.options.iter().filter(|(key, _)| key == "preallocation").cloned().collect();
    let below = Creation { filename: path.to_owned(), size, options, ..Creation::default() };
    block::RAW.create.map_or(Ok(()), |create| create(&below))?;
    let file = std::fs::File::options().write(true).open(path).map_err(fail)?;
    file.write_all_at(&head, 0).map_err(fail)
}

fn describe(new: &Creation) -> String {
    let mut text = format!(" size={}", new.size);
    let names = [
        "key-secret",
        "cipher-alg",
        "cipher-mode",
        "ivgen-alg",
        "ivgen-hash-alg",
        "hash-alg",
        "iter-time",
        "preallocation",
    ];
    for name in names {
        if let Some(value) = new.option(name) {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}
