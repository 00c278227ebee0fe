//! Making images.
//!
//! A new image is a header, a table of reference counts, one block of them and the L1 table, in
//! this order as QEMU lays them out; a longer L1 table than the first block can count is made by
//! resizing. Options are QEMU's; those of features that are not here are refused by name.
//! Source: QEMU's manual, `qemu-img create -f qcow2 -o help`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use block::{CreateOption, Creation, Flags, Graph, Preallocation};
use qapi::{Error, Result, parse_size};

use super::header::{Header, feature};

const fn option(name: &'static str, kind: &'static str, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help }
}

pub(super) const OPTIONS: &[CreateOption] = &[
    option("backing_file", "str", "File name of a base image"),
    option("backing_fmt", "str", "Image format of the base image"),
    option("cluster_size", "size", "qcow2 cluster size"),
    option("compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("compression_type", "str", "Compression method used for image cluster compression"),
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
    let cluster = parse_size(word(new, "cluster_size", "65536"), 1).unwrap_or(0);
    let mut text = format!(
        " cluster_size={cluster} extended_l2={} compression_type={}",
        word(new, "extended_l2", "off"),
        word(new, "compression_type", "zlib")
    );
    if let Some(how) = new.option("preallocation") {
        text.push_str(&format!(" preallocation={how}"));
    }
    text.push_str(&format!(" size={}", new.size));
    for name in ["backing_file", "backing_fmt"] {
        if let Some(value) = new.option(name) {
            text.push_str(&format!(" {name}={value}"));
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

fn is_on(new: &Creation, name: &str) -> Result<bool> {
    match word(new, name, "off") {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::expects(name, "'on' or 'off'")),
    }
}

fn shape(new: &Creation) -> Result<Header> {
    let cluster = parse_size(word(new, "cluster_size", "65536"), 1).unwrap_or(0);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return refuse("Cluster size must be a power of two between 512 and 2048k");
    }
    let version = match word(new, "compat", "1.1") {
        "0.10" | "v2" => 2,
        "1.1" | "v3" => 3,
        other => return refuse(format!("Invalid compatibility level: '{other}'")),
    };
    let width = word(new, "refcount_bits", "16").parse::<u32>().unwrap_or(0);
    if !width.is_power_of_two() || width > 64 {
        return refuse("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if version == 2 && width != 16 {
        return refuse(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
        );
    }
    if is_on(new, "extended_l2")? {
        return refuse("extended_l2=on is not built yet in Tinamou");
    }
    if word(new, "compression_type", "zlib") != "zlib" {
        return refuse("compression types other than zlib are not built yet in Tinamou");
    }
    let mut header = Header::new(version, cluster.trailing_zeros(), width.trailing_zeros());
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
    if how != Preallocation::Off && new.option("backing_file").is_some() {
        return refuse(
            "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
        );
    }
    Ok(how)
}

/// Makes an image.
pub(super) fn create(new: &Creation) -> Result<()> {
    let mut header = shape(new)?;
    let how = preallocation(new)?;
    let size = new.size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
    let Some(need) = header.l1_entries_for(size) else {
        return refuse("Image size too large for file format (hint: use a larger cluster size?)");
    };
    let cluster = 1u64 << header.cluster_bits;
    // Clusters that the first block of counts can count.
    let counted = (cluster * 8) >> header.refcount_order;
    let first = if how == Preallocation::Off { size } else { 0 };
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
    let graph = Graph::new(CLASSES);
    let flags = Flags { no_backing: true, ..Flags::default() };
    let node = graph.open_image(path, Some("qcow2"), flags)?;
    node.driver().truncate(size, how).and_then(|()| node.driver().flush()).map_err(fail)
}
