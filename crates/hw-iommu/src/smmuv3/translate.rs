//! The way of a request: configuration, both stages, records of what failed.
//!
//! Structures are read as RAM only, so that devices may ask while they hold their locks. All accesses
//! count as privileged, as in QEMU 10.0. Source: IHI 0070, 3.3, 3.4 and 7.3.

use std::sync::Arc;

use device::Translated;

use super::events::{
    ACCESS, ADDRESS_SIZE, BAD_CD, BAD_STE, BAD_STREAM_ID, CD_FETCH, Class, Event, Fault,
    PERMISSION, STE_FETCH, TRANSLATION,
};
use super::stream::{Context, Entry, SID_BITS, Second};
use super::tlb::{Config, Mapping, Tag};
use super::walk::{Leaf, Why, walk};
use super::{SMMU_ENABLE, Smmu};

/// Requests end while the SMMU is off.
const GBPR_ABORT: u32 = 1 << 20;

/// Why a request ended: the record, if there is one.
struct End(Option<Event>);

impl From<Event> for End {
    fn from(event: Event) -> End {
        End(Some(event))
    }
}

/// A failed walk, before it is known whom it is told.
enum Failed {
    Why(Why),
    End(End),
}

impl From<Why> for Failed {
    fn from(why: Why) -> Failed {
        Failed::Why(why)
    }
}

fn kind(why: Why) -> u8 {
    match why {
        Why::AddressSize => ADDRESS_SIZE,
        Why::Access => ACCESS,
        Why::Permission => PERMISSION,
        Why::Translation | Why::Table(_) => TRANSLATION,
    }
}

impl Smmu {
    /// Reads a double word of RAM.
    pub(crate) fn load(&self, at: u64) -> Option<u64> {
        let ram = self.memory.ram_at(at).filter(|ram| ram.len >= 8)?;
        ram.block.load(ram.offset, 8).ok()
    }

    /// Writes bytes to RAM.
    pub(crate) fn store(&self, at: u64, bytes: &[u8]) -> Option<()> {
        let fits = |ram: &memory::RamRange| ram.len >= bytes.len() as u64 && !ram.readonly;
        let ram = self.memory.ram_at(at).filter(fits)?;
        ram.block.write(ram.offset, bytes).ok()
    }

    fn words(&self, at: u64) -> Option<[u64; 8]> {
        let mut out = [0; 8];
        for (word, place) in out.iter_mut().zip((at..).step_by(8)) {
            *word = self.load(place)?;
        }
        Some(out)
    }

    /// The address of a stream's entry.
    fn entry_address(&self, sid: u16) -> Result<u64, Event> {
        let (base, cfg) = {
            let regs = self.regs.lock();
            (regs.strtab_base & 0x000f_ffff_ffff_ffc0, regs.strtab_base_cfg)
        };
        let bad = Event::Config { kind: BAD_STREAM_ID };
        let log2 = (cfg & 0x3f).min(SID_BITS);
        let sid = u64::from(sid);
        if sid >> log2 != 0 {
            return Err(bad);
        }
        if cfg >> 16 & 3 == 0 {
            return Ok((base & !((64u64 << log2) - 1)) + sid * 64);
        }
        // Two levels.
        let split = cfg >> 6 & 0x1f;
        let first_bits = log2.saturating_sub(split);
        let base = base & !((8u64 << first_bits) - 1).max(0x3f);
        let at = base + (sid >> split) * 8;
        let Some(descriptor) = self.load(at) else {
            return Err(Event::Fetch { kind: STE_FETCH, at });
        };
        let span = u32::try_from(descriptor & 0x1f).unwrap_or(0);
        if span == 0 || span > split + 1 {
            return Err(bad);
        }
        let index = sid & ((1u64 << split) - 1);
        if index >= 1 << (span - 1) {
            // The peer's record; the architecture does not choose.
            return Err(Event::Config { kind: BAD_STE });
        }
        let table = descriptor & 0x000f_ffff_ffff_ffc0 & !((64u64 << (span - 1)) - 1);
        Ok(table + index * 64)
    }

    /// The configuration of a stream.
    fn config(&self, sid: u16) -> Result<Arc<Config>, End> {
        let epoch = {
            let cache = self.cache.lock();
            if let Some(config) = cache.stream(sid) {
                return Ok(config);
            }
            cache.epoch
        };
        let at = self.entry_address(sid)?;
        let ste = self.words(at).ok_or(Event::Fetch { kind: STE_FETCH, at })?;
        let entry = Entry::of(&ste, self.stages).map_err(|_| Event::Config { kind: BAD_STE })?;
        let config = match entry {
            Entry::Abort => Config::Abort,
            Entry::Bypass => Config::Bypass,
            Entry::Translate { context: None, second, vmid } => {
                Config::Translate { context: None, second, vmid }
            }
            Entry::Translate { context: Some(at), second, vmid } => {
                let context = Some(self.context(at, second.as_ref())?);
                Config::Translate { context, second, vmid }
            }
        };
        let config = Arc::new(config);
        self.cache.lock().put_stream(sid, config.clone(), epoch);
        Ok(config)
    }

    fn context(&self, at: u64, second: Option<&Second>) -> Result<Context, End> {
        let place = match second {
            None => at,
            Some(second) => {
                let found = self.through_second(second, at, (false, Class::Context));
                found.map_err(|event| stage2_end(second, event))?.0
            }
        };
        let cd = self.words(place).ok_or(Event::Fetch { kind: CD_FETCH, at: place })?;
        Ok(Context::of(&cd).map_err(|_| Event::Config { kind: BAD_CD })?)
    }

    /// Where an intermediate address leads, and the mapping.
    fn through_second(
        &self,
        second: &Second,
        ipa: u64,
        (write, class): (bool, Class),
    ) -> Result<(u64, Leaf), Event> {
        let fault = |why: Why| match why {
            Why::Table(at) => Event::Walk { class, stage2: true, at },
            why => Event::Fault(Fault { kind: kind(why), class, stage2: true, ipa }),
        };
        if ipa >> second.walk.bits.min(63) != 0 {
            return Err(fault(Why::Translation));
        }
        let mut load = |at| self.load(at).ok_or(Why::Table(at));
        let leaf = walk::<Why>(&second.walk, ipa, &mut load).map_err(fault)?;
        if write && !leaf.write || !write && !leaf.read {
            return Err(fault(Why::Permission));
        }
        Ok((leaf.base | (ipa & ((1u64 << leaf.shift) - 1)), leaf))
    }

    /// Where an address leads by stage 1, and the mapping.
    fn through_first(
        &self,
        (context, second): (&Context, Option<&Second>),
        addr: u64,
        write: bool,
    ) -> Result<Leaf, End> {
        let fault = |why: Why| match why {
            Why::Table(at) => End(Some(Event::Walk { class: Class::Table, stage2: false, at })),
            // The record of a fault of stage 1 can be switched off.
            why => End(context.record.then_some(Event::Fault(Fault {
                kind: kind(why),
                class: Class::Input,
                stage2: false,
                ipa: 0,
            }))),
        };
        let Some(range) = context.range_of(addr) else { return Err(fault(Why::Translation)) };
        let mut load = |at: u64| -> Result<u64, Failed> {
            let place = match second {
                None => at,
                Some(second) => {
                    let table = self.through_second(second, at, (false, Class::Table));
                    table.map_err(|event| Failed::End(stage2_end(second, event)))?.0
                }
            };
            self.load(place).ok_or(Failed::Why(Why::Table(place)))
        };
        let leaf = walk::<Failed>(range, addr, &mut load).map_err(|failed| match failed {
            Failed::Why(why) => fault(why),
            Failed::End(end) => end,
        })?;
        if write && !leaf.write {
            return Err(fault(Why::Permission));
        }
        Ok(leaf)
    }

    fn resolve(&self, sid: u16, addr: u64, write: bool) -> Result<Translated, End> {
        /// A request that goes through: how far its piece reaches.
        const FAR: u64 = 1 << 30;
        let config = self.config(sid)?;
        let (context, second, vmid) = match &*config {
            Config::Abort => return Err(End(None)),
            Config::Bypass => return Ok(Translated { addr, len: FAR - addr % FAR }),
            Config::Translate { context, second, vmid } => (context, second, *vmid),
        };
        let tag = Tag { vmid, asid: context.as_ref().map(|c| c.asid) };
        let (known, epoch) = {
            let cache = self.cache.lock();
            (cache.find(tag, addr), cache.epoch)
        };
        if let Some(m) = known.filter(|m| if write { m.write } else { m.read }) {
            return Ok(piece(m.base, m.shift, addr));
        }
        let mapping = match (context, second) {
            (None, None) => return Ok(Translated { addr, len: FAR - addr % FAR }),
            (None, Some(second)) => {
                let by_second = self.through_second(second, addr, (write, Class::Input));
                let (_, leaf) = by_second.map_err(|event| stage2_end(second, event))?;
                mapping(leaf, None)
            }
            (Some(context), None) => {
                mapping(self.through_first((context, None), addr, write)?, None)
            }
            (Some(context), Some(second)) => {
                let first = self.through_first((context, Some(second)), addr, write)?;
                let ipa = first.base | (addr & ((1u64 << first.shift) - 1));
                let by_second = self.through_second(second, ipa, (write, Class::Input));
                let (_, leaf) = by_second.map_err(|event| stage2_end(second, event))?;
                nested(first, leaf, ipa)
            }
        };
        self.cache.lock().put(tag, addr, mapping, epoch);
        Ok(piece(mapping.base, mapping.shift, addr))
    }
}

/// Faults of stage 2 are told if its entry says so; what could not be read always is.
fn stage2_end(second: &Second, event: Event) -> End {
    let told = second.record || !matches!(event, Event::Fault(_));
    End(told.then_some(event))
}

fn piece(base: u64, shift: u32, addr: u64) -> Translated {
    let mask = (1u64 << shift) - 1;
    Translated { addr: base | (addr & mask), len: mask - (addr & mask) + 1 }
}

fn mapping(leaf: Leaf, global: Option<bool>) -> Mapping {
    let Leaf { base, shift, read, write, global: own } = leaf;
    Mapping { base, shift, read, write, global: global.unwrap_or(own) }
}

/// Both stages: the smaller mapping, and what both allow.
fn nested(first: Leaf, second: Leaf, ipa: u64) -> Mapping {
    let shift = first.shift.min(second.shift);
    let place = second.base | (ipa & ((1u64 << second.shift) - 1));
    Mapping {
        base: place & !((1u64 << shift) - 1),
        shift,
        read: first.read && second.read,
        write: first.write && second.write,
        global: first.global,
    }
}

impl pci::Iommu for Smmu {
    fn translate(&self, requester: u16, addr: u64, write: bool) -> Option<Translated> {
        const FAR: u64 = 1 << 30;
        let (cr0, gbpr) = {
            let regs = self.regs.lock();
            (regs.cr0, regs.gbpr)
        };
        if cr0 & SMMU_ENABLE == 0 {
            let open = gbpr & GBPR_ABORT == 0;
            return open.then_some(Translated { addr, len: FAR - addr % FAR });
        }
        match self.resolve(requester, addr, write) {
            Ok(to) => Some(to),
            Err(End(event)) => {
                if let Some(event) = event {
                    self.record(event.record(requester, addr, write));
                }
                None
            }
        }
    }
}
