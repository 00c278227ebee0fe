//! Making images.
//!
//! A new image is a header, a table of reference counts, one block of them and the L1 table, in
//! this order as QEMU lays them out; a longer L1 table than the first block can count is made by
//! resizing, so is one with an encryption header. Options are QEMU's.
//! Source: QEMU's manual, `qemu-img create -f qcow2 -o help`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use block::{CreateOption, Creation, Flags, Graph, Preallocation};
use qapi::{Error, Result, parse_size};

use super::header::{CRYPT_HEADER, DATA_FILE_NAME, Header, feature};
use super::tables::Meta;

/// A line of a table of options.
pub(super) const fn option(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
) -> CreateOption {
    CreateOption { name, kind, help }
}

pub(super) const OPTIONS: &[CreateOption] = &[
    option("backing_file", "str", "File name of a base image"),
    option("backing_fmt", "str", "Image format of the base image"),
    option("cluster_size", "size", "qcow2 cluster size"),
    option("compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("compression_type", "str", "Compression method used for image cluster compression"),
    option("data_file", "str", "File name of an external data file"),
    option(
        "data_file_raw",
        "bool (on/off)",
        "The external data file must stay valid as a raw image",
    ),
    option("encrypt.cipher-alg", "str", "Name of encryption cipher algorithm"),
    option("encrypt.cipher-mode", "str", "Name of encryption cipher mode"),
    option("encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'"),
    option("encrypt.hash-alg", "str", "Name of encryption hash algorithm"),
    option("encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"),
    option("encrypt.ivgen-alg", "str", "Name of IV generator algorithm"),
    option("encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm"),
    option("encrypt.key-secret", "str", "ID of secret providing qcow AES key or LUKS passphrase"),
    option(
        "encryption",
        "bool (on/off)",
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    option("extended_l2", "bool (on/off)", "Extended L2 tables"),
    option("lazy_refcounts", "bool (on/off)", "Postpone refcount updates"),
    option(
        "preallocation",
        "str",
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    option("refcount_bits", "num", "Width of a reference count entry in bits"),
    option("size", "size", "Virtual disk size"),
];

static CLASSES: &[&block::BlockClass] = &[&block::FILE, &block::HOST_DEVICE, &super::CLASS];

fn word<'a>(new: &'a Creation, name: &str, other: &'a str) -> &'a str {
    new.option(name).unwrap_or(other)
}

/// The options as the peer shows them.
pub(super) fn describe(new: &Creation) -> String {
    let extended = word(new, "extended_l2", "off");
    let cluster = parse_size(word(new, "cluster_size", "65536"), 1).unwrap_or(0);
    let mut text = String::new();
    let mut show = |names: &[&str]| {
        for name in names {
            if let Some(value) = new.option(name) {
                text.push_str(&format!(" {name}={}", value.replace(',', ",,")));
            }
        }
    };
    show(&["compat", "encryption", "encrypt.format", "encrypt.key-secret", "encrypt.cipher-alg"]);
    show(&["encrypt.cipher-mode", "encrypt.ivgen-alg", "encrypt.ivgen-hash-alg"]);
    show(&["encrypt.hash-alg", "encrypt.iter-time"]);
    text.push_str(&format!(" cluster_size={cluster}"));
    if let Some(how) = new.option("preallocation") {
        text.push_str(&format!(" preallocation={how}"));
    }
    let compression = word(new, "compression_type", "zlib");
    text.push_str(&format!(" extended_l2={extended} compression_type={compression}"));
    text.push_str(&format!(" size={}", new.size));
    for name in ["backing_file", "backing_fmt", "data_file", "data_file_raw"] {
        if let Some(value) = new.option(name) {
            text.push_str(&format!(" {name}={}", value.replace(',', ",,")));
        }
    }
    text.push_str(&format!(
        " lazy_refcounts={} refcount_bits={}",
        word(new, "lazy_refcounts", "off"),
        word(new, "refcount_bits", "16")
    ));
    text
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

/// What a word of a switch means.
pub(super) fn switch(name: &str, word: &str) -> Result<bool> {
    match word {
        "on" | "true" | "yes" | "y" => Ok(true),
        "off" | "false" | "no" | "n" => Ok(false),
        _ => Err(Error::expects(name, "'on' or 'off'")),
    }
}

fn is_on(new: &Creation, name: &str) -> Result<bool> {
    switch(name, word(new, name, "off"))
}

/// The version that a word of `compat` means.
pub(super) fn version(word: &str) -> Result<u32> {
    match word {
        "0.10" | "v2" => Ok(2),
        "1.1" | "v3" => Ok(3),
        other => Err(Error::not_accepted("version", other, ["v2", "v3"])),
    }
}

fn shape(new: &Creation) -> Result<Header> {
    let cluster = parse_size(word(new, "cluster_size", "65536"), 1).unwrap_or(0);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return refuse("Cluster size must be a power of two between 512 and 2048k");
    }
    let version = version(word(new, "compat", "1.1"))?;
    let width = word(new, "refcount_bits", "16").parse::<u32>().unwrap_or(0);
    if !width.is_power_of_two() || width > 64 {
        return refuse("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if version == 2 && width != 16 {
        return refuse(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
        );
    }
    let mut header = Header::new(version, cluster.trailing_zeros(), width.trailing_zeros());
    if is_on(new, "extended_l2")? {
        if version == 2 {
            return refuse(
                "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        if cluster < 16384 {
            return refuse(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            );
        }
        header.incompatible |= feature::EXTENDED_L2;
    }
    match word(new, "compression_type", "zlib") {
        "zlib" => {}
        "zstd" if version > 2 => {
            header.incompatible |= feature::COMPRESSION;
            header.compression = 1;
        }
        "zstd" => {
            return refuse(
                "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        other => return Err(Error::not_accepted("compression-type", other, ["zlib", "zstd"])),
    }
    if new.option("data_file").is_some() {
        if version == 2 {
            return refuse(
                "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        header.incompatible |= feature::DATA_FILE;
    }
    if is_on(new, "data_file_raw")? {
        if new.option("data_file").is_none() {
            return refuse("data-file-raw requires data-file");
        }
        if new.option("backing_file").is_some() {
            return refuse("Backing file and data-file-raw cannot be used at the same time");
        }
        header.autoclear |= feature::RAW_DATA;
    }
    if is_on(new, "lazy_refcounts")? {
        if version == 2 {
            return refuse(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        header.compatible |= feature::LAZY_REFCOUNTS;
    }
    Ok(header)
}

fn preallocation(new: &Creation) -> Result<Preallocation> {
    let how = match word(new, "preallocation", "off") {
        "off" => Preallocation::Off,
        "metadata" => Preallocation::Metadata,
        "falloc" => Preallocation::Falloc,
        "full" => Preallocation::Full,
        other => {
            return Err(Error::not_accepted(
                "preallocation",
                other,
                ["off", "metadata", "falloc", "full"],
            ));
        }
    };
    let extended = is_on(new, "extended_l2")?;
    if how != Preallocation::Off && new.option("backing_file").is_some() && !extended {
        return refuse(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        );
    }
    Ok(how)
}

/// The header of an encrypted image; the old AES has a number only.
fn encryption(new: &Creation, header: &mut Header) -> Result<Option<Vec<u8>>> {
    let old = new.option("encryption").is_some();
    let format = match new.option("encrypt.format") {
        Some(_) if old => {
            return refuse(
                "'encrypt.format' and its alias 'encryption' can't be used at the same time",
            );
        }
        None if is_on(new, "encryption")? => Some("aes"),
        format => format,
    };
    match format {
        None => Ok(None),
        Some("luks") => Ok(Some(crate::luks::make_header(new, "encrypt.")?.0)),
        Some("aes") => {
            let Some(id) = new.option("encrypt.key-secret") else {
                return refuse("Parameter 'encrypt.key-secret' is required for cipher");
            };
            new.keys.secret(id)?;
            header.crypt = 1;
            Ok(None)
        }
        Some(other) => Err(Error::not_accepted("encrypt.format", other, ["aes", "luks"])),
    }
}

/// Makes an image.
pub(super) fn create(new: &Creation) -> Result<()> {
    let mut header = shape(new)?;
    let mut how = preallocation(new)?;
    if header.autoclear & feature::RAW_DATA != 0 && how == Preallocation::Off {
        // A reader of the data file alone and one of the tables must see the same.
        how = Preallocation::Metadata;
    }
    let crypt = encryption(new, &mut header)?;
    let size = new.size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
    let Some(need) = header.l1_entries_for(size) else {
        return refuse(
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
        );
    };
    let cluster = 1u64 << header.cluster_bits;
    // Clusters that the first block of counts can count.
    let counted = (cluster * 8) >> header.refcount_order;
    let plain = how == Preallocation::Off && crypt.is_none();
    let first = if plain { size } else { 0 };
    let most = (counted - 3).saturating_mul(cluster / 8);
    let entries = if need <= most && first == size { need } else { 0 };
    header.size = if entries == need { size } else { 0 };
    let l1_clusters = (entries * 8).div_ceil(cluster);
    header.table_offset = cluster;
    header.table_clusters = 1;
    header.l1_offset = 3 * cluster;
    header.l1_size = u32::try_from(entries).unwrap_or(0);
    if entries == 0 {
        header.l1_offset = 0;
    }
    let fail = |error: std::io::Error| {
        Error::generic(format!("Could not create '{}': {}", new.filename, host::reason(&error)))
    };
    if let Some(name) = new.option("data_file") {
        make_data_file(new, name, size)?;
        header.extensions.push((DATA_FILE_NAME, name.as_bytes().to_vec()));
    }
    header.set_backing(new.option("backing_file"), new.option("backing_fmt")).map_err(fail)?;
    let path = new.filename.strip_prefix("file:").unwrap_or(&new.filename);
    // Through the raw driver, so that an image in use is not overwritten.
    let empty = Creation { filename: path.to_owned(), ..Creation::default() };
    block::RAW.create.map_or(Ok(()), |create| create(&empty))?;
    let file = File::options().write(true).open(path).map_err(fail)?;
    let mut counts = vec![0u8; usize::try_from(cluster).unwrap_or(0)];
    let order = header.refcount_order;
    for at in 0..usize::try_from(3 + l1_clusters).unwrap_or(0) {
        super::refcount::put(&mut counts, order, at, 1);
    }
    file.write_all_at(&(2 * cluster).to_be_bytes(), cluster).map_err(fail)?;
    file.write_all_at(&counts, 2 * cluster).map_err(fail)?;
    file.set_len(3 * cluster + entries * 8).map_err(fail)?;
    file.write_all_at(header.bytes(), 0).map_err(fail)?;
    drop(file);
    if header.size == size {
        return Ok(());
    }
    finish(new, path, size, how, crypt)
}

/// The data file, as long as the disk.
fn make_data_file(new: &Creation, name: &str, size: u64) -> Result<()> {
    let filename = block::relative_to(&new.filename, name);
    let below = Creation { filename, size, ..Creation::default() };
    block::RAW.create.map_or(Ok(()), |create| create(&below))
}

/// What is done with the tables of the empty image: an encryption header, the length, space.
fn finish(
    new: &Creation,
    path: &str,
    size: u64,
    how: Preallocation,
    crypt: Option<Vec<u8>>,
) -> Result<()> {
    let fail = |error: std::io::Error| {
        Error::generic(format!("Could not create '{}': {}", new.filename, host::reason(&error)))
    };
    let graph = Graph::new(CLASSES);
    graph.set_keys(new.keys.clone());
    if let Some(bytes) = crypt {
        let flags = Flags { no_backing: true, ..Flags::default() };
        let file = graph.open(block::filename_options(path)?, qapi::Source::Json, flags)?;
        let header = Header::read(&file)?;
        let mut meta = Meta::read(header, file.clone(), None).map_err(fail)?;
        let len = bytes.len() as u64;
        let place = meta.take(len.div_ceil(meta.cluster())).map_err(fail)?;
        meta.commit(false).map_err(fail)?;
        let mut whole = bytes;
        whole.resize(usize::try_from(len.next_multiple_of(meta.cluster())).unwrap_or(0), 0);
        file.driver().write(place, &whole).map_err(fail)?;
        let mut data = place.to_be_bytes().to_vec();
        data.extend(len.to_be_bytes());
        meta.header.crypt = 2;
        meta.header.set_extension(CRYPT_HEADER, Some(data)).map_err(fail)?;
        meta.header.write_whole(&file).map_err(fail)?;
    }
    // Tables are laid out without the key.
    let flags = Flags {
        no_backing: true,
        header_only: new.option("data_file").is_none(),
        ..Flags::default()
    };
    let node = graph.open_image(path, Some("qcow2"), flags)?;
    node.driver().truncate(size, how).and_then(|()| node.driver().flush()).map_err(fail)
}
