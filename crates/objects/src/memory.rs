//! `memory-backend-ram`, `-file` and `-memfd`: RAM that users make.
//!
//! Each offers `Arc<guest_ram::RamBlock>`. Not modelled, and refused with a line: persistent
//! memory (`pmem=on`), alignments beyond the host's page size, `prealloc-context`.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use derive::Qapi;
use device::{ObjectBuild, ObjectClass, ObjectType};
use guest_ram::RamBlock;
use host::{Mapping, Memfd, Policy};
use qapi::{Error, Result, Size};

/// The class of `memory-backend-ram`.
pub static RAM: ObjectClass = ObjectClass::of::<RamBackend>();
/// The class of `memory-backend-file`.
pub static FILE: ObjectClass = ObjectClass::of::<FileBackend>();
/// The class of `memory-backend-memfd`.
pub static MEMFD: ObjectClass = ObjectClass::of::<MemfdBackend>();

/// Where pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum HostMemPolicy {
    /// As the system likes.
    Default,
    /// These nodes if possible.
    Preferred,
    /// These nodes only.
    Bind,
    /// These nodes in turn.
    Interleave,
}

/// On, off, or as the other properties say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum OnOffAuto {
    /// As the other properties say.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// Highest node number plus one.
const MAX_NODES: u16 = 128;

/// Properties of all memory.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text for some")]
pub struct Common {
    /// Set to 'off' to exclude from core dump
    #[qapi(default = true)]
    pub dump: bool,
    /// Binds memory to the list of NUMA host nodes
    #[qapi(name = "host-nodes", default = "")]
    pub nodes: Nodes,
    /// Mark memory as mergeable
    #[qapi(default = true)]
    pub merge: bool,
    /// Set the NUMA policy
    #[qapi(default = "default")]
    pub policy: HostMemPolicy,
    /// Preallocate memory
    #[qapi(default = false)]
    pub prealloc: bool,
    /// Context to use for creating CPU threads for preallocation
    #[qapi(name = "prealloc-context")]
    pub context: Option<ContextLink>,
    /// Number of CPU threads to use for prealloc
    #[qapi(name = "prealloc-threads", default = 1)]
    pub threads: u32,
    /// Reserve swap space (or huge pages) if applicable
    #[qapi(default = true)]
    pub reserve: bool,
    /// Size of the memory region (ex: 500M)
    pub size: Size,
    #[qapi(name = "x-use-canonical-path-for-ramblock-id", default = false)]
    pub canonical: bool,
}

/// The name of a `thread-context` object.
#[derive(Clone, Debug)]
pub struct ContextLink(String);

impl qapi::Qapi for ContextLink {
    fn type_info() -> &'static qapi::TypeInfo {
        static INFO: qapi::TypeInfo =
            qapi::TypeInfo { name: "link<thread-context>", doc: "", kind: qapi::Kind::Str };
        &INFO
    }
    fn from_value(value: qapi::Value, source: qapi::Source) -> Result<Self> {
        String::from_value(value, source).map(Self)
    }
    fn to_value(&self) -> qapi::Value {
        self.0.to_value()
    }
}

/// Node numbers: a list, or in key=value text also ranges such as `0-2`.
#[derive(Clone, Debug, Default)]
pub struct Nodes(Vec<u16>);

impl qapi::Qapi for Nodes {
    fn type_info() -> &'static qapi::TypeInfo {
        <Vec<u16> as qapi::Qapi>::type_info()
    }
    fn from_value(value: qapi::Value, source: qapi::Source) -> Result<Self> {
        let qapi::Value::Str(text) = &value else {
            return Vec::from_value(value, source).map(Self);
        };
        let wrong = || Error::expects("", "a node number or a range such as 0-2");
        let mut nodes = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            nodes.extend(first..=last);
        }
        Ok(Self(nodes))
    }
    fn to_value(&self) -> qapi::Value {
        self.0.to_value()
    }
}

impl Common {
    /// What can be said before memory is made; the length in bytes.
    fn check(&self, kind: &str) -> Result<usize> {
        let takes_not = |name: &str| {
            Error::generic(format!("property '{name}' of {kind} doesn't take value '0'"))
        };
        if let Some(id) = &self.context {
            return Err(Error::device_not_found(&id.0));
        }
        if self.size.0 == 0 {
            return Err(takes_not("size"));
        }
        if self.threads == 0 {
            return Err(takes_not("prealloc-threads"));
        }
        if self.prealloc && !self.reserve {
            return Err(Error::generic("'prealloc=on' and 'reserve=off' are incompatible"));
        }
        if let Some(node) = self.nodes.0.iter().find(|n| **n >= MAX_NODES) {
            return Err(Error::generic(format!("Invalid host-nodes value: {node}")));
        }
        usize::try_from(self.size.0).map_err(|_| takes_not("size"))
    }

    /// Checks nodes against the policy.
    fn nodes(&self) -> Result<Option<Policy>> {
        let policy = match self.policy {
            HostMemPolicy::Default if self.nodes.0.is_empty() => return Ok(None),
            HostMemPolicy::Default => {
                return Err(Error::generic(
                    "host-nodes must be empty for policy default, or you should explicitly \
                     specify a policy other than default",
                ));
            }
            HostMemPolicy::Preferred => Policy::Preferred,
            HostMemPolicy::Bind => Policy::Bind,
            HostMemPolicy::Interleave => Policy::Interleave,
        };
        if self.nodes.0.is_empty() {
            let name = match policy {
                Policy::Preferred => "preferred",
                Policy::Bind => "bind",
                Policy::Interleave => "interleave",
            };
            return Err(Error::generic(format!("host-nodes must be set for policy {name}")));
        }
        Ok(Some(policy))
    }

    /// Makes the block of a mapping and offers it.
    fn finish(&self, map: Mapping, rom: bool, at: &mut ObjectBuild<'_>) -> Result<Arc<RamBlock>> {
        if self.merge {
            map.advise_mergeable(true);
        }
        if !self.dump {
            map.advise_no_dump();
        }
        if let Some(policy) = self.nodes()? {
            map.bind(policy, &self.nodes.0).map_err(|e| {
                let why = host::reason(&e);
                Error::generic(format!("cannot bind memory to host NUMA nodes: {why}"))
            })?;
        }
        if self.prealloc {
            populate(&map, self.threads)?;
        }
        let id = at.id();
        let name = if self.canonical { format!("/objects/{id}") } else { id.to_owned() };
        let block = RamBlock::of(&name, self.size.0, map, rom);
        let block = block.map_err(|e| no_memory(id, &e))?;
        at.offer(block.clone());
        Ok(block)
    }
}

fn no_memory(id: &str, error: &std::io::Error) -> Error {
    Error::generic(format!("cannot set up guest memory '{id}': {}", host::reason(error)))
}

/// Touches all pages, in several threads.
fn populate(map: &Mapping, threads: u32) -> Result<()> {
    let page = host::page_size();
    let pages = map.len() / page;
    let each = pages.div_ceil(usize::try_from(threads).unwrap_or(1).clamp(1, 64)) * page;
    let failed = |e: &std::io::Error| {
        Error::generic(format!("preallocating memory failed: {}", host::reason(e)))
    };
    let parts = (0..map.len()).step_by(each.max(page));
    let results: Vec<_> = evloop::scoped(
        "prealloc",
        parts.map(|start| move || map.populate(start, each.min(map.len() - start))),
    );
    results.into_iter().try_for_each(|r| r.map_err(|e| failed(&e)))
}

/// Properties of `memory-backend-ram`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "documented as a type")]
pub struct RamProps {
    #[qapi(flatten)]
    pub common: Common,
    /// Mark the memory as private to QEMU or shared
    #[qapi(default = false)]
    pub share: bool,
}

/// Properties of `memory-backend-memfd`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "documented as a type")]
pub struct MemfdProps {
    #[qapi(flatten)]
    pub common: Common,
    /// Mark the memory as private to QEMU or shared
    #[qapi(default = true)]
    pub share: bool,
    /// Use huge pages
    #[qapi(default = false)]
    pub hugetlb: bool,
    /// Huge pages size (ex: 2M, 1G)
    pub hugetlbsize: Option<Size>,
    /// Seal growing & shrinking
    #[qapi(default = true)]
    pub seal: bool,
}

/// Properties of `memory-backend-file`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text for some")]
pub struct FileProps {
    #[qapi(flatten)]
    pub common: Common,
    /// Mark the memory as private to QEMU or shared
    #[qapi(default = false)]
    pub share: bool,
    #[qapi(default = 0)]
    pub align: Size,
    #[qapi(name = "discard-data", default = false)]
    pub discard_data: bool,
    #[qapi(name = "mem-path")]
    pub mem_path: String,
    /// Offset into the target file (ex: 1G)
    #[qapi(default = 0)]
    pub offset: Size,
    #[qapi(default = false)]
    pub pmem: bool,
    #[qapi(default = false)]
    pub readonly: bool,
    /// Whether to create Read Only Memory (ROM)
    #[qapi(default = "auto")]
    pub rom: OnOffAuto,
}

/// Memory of the process.
pub struct RamBackend;

impl ObjectType for RamBackend {
    const NAME: &'static str = "memory-backend-ram";
    const SUMMARY: &'static str = "memory of the process";
    const EARLY: bool = false;
    type Props = RamProps;

    fn create(props: RamProps, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let common = &props.common;
        let len = common.check(Self::NAME)?;
        let map = Mapping::anonymous_with(len, props.share, common.reserve);
        common.finish(map.map_err(|e| no_memory(at.id(), &e))?, false, at)?;
        Ok(Arc::new(RamBackend))
    }
}

/// Memory that other processes can map.
pub struct MemfdBackend;

impl ObjectType for MemfdBackend {
    const NAME: &'static str = "memory-backend-memfd";
    const SUMMARY: &'static str = "memory that other processes can map";
    const EARLY: bool = false;
    type Props = MemfdProps;

    fn create(props: MemfdProps, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let common = &props.common;
        let len = common.check(Self::NAME)?;
        let size = props.hugetlbsize.map(|size| size.0);
        if size == Some(0) {
            return Err(Error::generic(format!(
                "Property '{}.hugetlbsize' doesn't take value '0'",
                Self::NAME
            )));
        }
        let huge = props.hugetlb.then_some(size.unwrap_or(0));
        if huge.is_some_and(|size| size > 0 && !size.is_power_of_two()) {
            return Err(Error::generic("Hugepage size must be a power of 2"));
        }
        let how = Memfd { seal: props.seal, huge, shared: props.share, reserve: common.reserve };
        let map = Mapping::memfd_with(Self::NAME, len, how).map_err(|e| {
            let why = host::reason(&e);
            Error::generic(format!("unable to map backing store for guest RAM: {why}"))
        })?;
        common.finish(map, false, at)?;
        Ok(Arc::new(MemfdBackend))
    }
}

/// A file as memory.
pub struct FileBackend {
    /// To be punched at the end.
    discard: Option<Arc<RamBlock>>,
}

impl ObjectType for FileBackend {
    const NAME: &'static str = "memory-backend-file";
    const SUMMARY: &'static str = "a file as memory";
    const EARLY: bool = false;
    type Props = FileProps;

    fn create(props: FileProps, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let common = &props.common;
        let len = common.check(Self::NAME)?;
        let rom = props.check()?;
        let file = props.open(at.id())?;
        let fd = OwnedFd::from(file);
        let share = props.share && !props.readonly;
        let map = Mapping::file(fd, props.offset.0, len, share, common.reserve).map_err(|e| {
            let why = host::reason(&e);
            Error::generic(format!("unable to map backing store for guest RAM: {why}"))
        })?;
        let block = common.finish(map, rom, at)?;
        Ok(Arc::new(FileBackend { discard: (props.discard_data && share).then_some(block) }))
    }
}

impl FileProps {
    /// Whether it is to be ROM.
    fn check(&self) -> Result<bool> {
        let page = host::page_size() as u64;
        let align = self.align.0;
        if !align.is_multiple_of(page) {
            let text = format!("alignment {align:#x} must be multiples of page size {page:#x}");
            return Err(Error::generic(text));
        }
        if align > page {
            let text = format!("alignment {align:#x} is not supported, at most {page:#x}");
            return Err(Error::generic(text));
        }
        if self.pmem {
            return Err(Error::generic("persistent memory (pmem=on) is not supported"));
        }
        match (self.rom, self.readonly, self.share) {
            (OnOffAuto::Off, true, true) => Err(Error::generic(
                "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'",
            )),
            (OnOffAuto::On, false, _) => Err(Error::generic(
                "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
            )),
            (OnOffAuto::On | OnOffAuto::Auto, readonly, _) => Ok(readonly),
            (OnOffAuto::Off, ..) => Ok(false),
        }
    }

    fn open(&self, id: &str) -> Result<File> {
        let path = Path::new(&self.mem_path);
        let failed = |e: std::io::Error| {
            let (path, why) = (&self.mem_path, host::reason(&e));
            Error::generic(format!("can't open backing store {path} for guest RAM: {why}"))
        };
        let (offset, size) = (self.offset.0, self.common.size.0);
        let end =
            offset.checked_add(size).ok_or_else(|| Error::expects("offset", "a size value"))?;
        if path.is_dir() {
            let file = unnamed(path, id).map_err(failed)?;
            file.set_len(end).map_err(failed)?;
            return Ok(file);
        }
        let mut how = OpenOptions::new();
        how.read(true).write(!self.readonly).create(!self.readonly).truncate(false);
        let file = how.open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let len = about.len();
        if !about.is_file() {
            return Ok(file);
        }
        if len == 0 && !self.readonly {
            file.set_len(end).map_err(failed)?;
        } else if len < end {
            return Err(Error::generic(format!(
                "{id} backing store size {len:#x} is too small for 'size' option {size:#x} plus \
                 'offset' option {offset:#x}"
            )));
        }
        Ok(file)
    }
}

/// A new file in a folder that no name leads to.
fn unnamed(folder: &Path, id: &str) -> std::io::Result<File> {
    let mut random = [0; 8];
    host::fill_random(&mut random)?;
    let id: String = id.chars().map(|c| if c == '/' { '_' } else { c }).collect();
    let name = format!("qemu_back_mem.{id}.{:016x}", u64::from_le_bytes(random));
    let path = folder.join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        if let Some(block) = &self.discard {
            let page = host::page_size() as u64;
            _ = block.discard(0, block.len() / page * page);
        }
    }
}
