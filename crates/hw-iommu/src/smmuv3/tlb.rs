//! What an SMMU remembers: configurations by stream, and translations.
//!
//! Translations are found by the size of their mapping, so a lookup tries each size that is in use.
//! Who walks tables notes [`Cache::epoch`] before; what was forgotten meanwhile is not put in.
//! Source: IHI 0070, 3.17 (TLB tagging) and 4.4 (invalidation).

use std::collections::HashMap;
use std::sync::Arc;

use super::stream::{Context, Second};

/// Most translations; beyond, all are forgotten.
const MOST: usize = 1 << 14;
/// Most configurations.
const MOST_STREAMS: usize = 1 << 12;
/// Commands that look through more than this forget all instead, which is always allowed: a guest
/// shall not keep its host busy.
const MOST_SCANNED: usize = 1 << 20;
/// Ranges with more pages than this are looked up among all translations.
const MANY_PAGES: u64 = 512;

/// How requests of a stream are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Config {
    /// They end.
    Abort,
    /// They go through.
    Bypass,
    /// They are translated.
    Translate { context: Option<Context>, second: Option<Second>, vmid: u16 },
}

/// Whose translation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) vmid: u16,
    /// `None`: stage 2 alone.
    pub(crate) asid: Option<u16>,
}

/// A translation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// First address of the output.
    pub(crate) base: u64,
    /// log2 of its length.
    pub(crate) shift: u32,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) global: bool,
}

/// Which translations to forget.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope {
    All,
    /// Of a machine: stage 1 and nested ones, or all.
    Machine {
        vmid: u16,
        stage1_only: bool,
    },
    Space {
        vmid: u16,
        asid: u16,
    },
    /// Input addresses of stage 1; `asid` `None`: of all spaces.
    Range {
        vmid: u16,
        asid: Option<u16>,
        first: u64,
        pages: u64,
        page_bits: u32,
    },
    /// Input addresses of stage 2.
    Second {
        vmid: u16,
        first: u64,
        pages: u64,
        page_bits: u32,
    },
}

/// Both caches.
#[derive(Default)]
pub(crate) struct Cache {
    streams: HashMap<u16, Arc<Config>>,
    mappings: HashMap<(Tag, u32, u64), Mapping>,
    /// Sizes in use, as bits by their log2.
    sizes: u64,
    /// A mapping that belongs to all spaces was put in.
    has_global: bool,
    /// Translations looked at by commands lately; see [`MOST_SCANNED`].
    scanned: usize,
    /// Counts what was forgotten.
    pub(crate) epoch: u64,
}

impl Cache {
    pub(crate) fn stream(&self, sid: u16) -> Option<Arc<Config>> {
        self.streams.get(&sid).cloned()
    }

    pub(crate) fn put_stream(&mut self, sid: u16, config: Arc<Config>, epoch: u64) {
        if epoch == self.epoch {
            if self.streams.len() >= MOST_STREAMS {
                self.streams.clear();
            }
            self.streams.insert(sid, config);
        }
    }

    fn shifts(&self) -> impl Iterator<Item = u32> + use<> {
        let sizes = self.sizes;
        (12..48).filter(move |shift| sizes >> shift & 1 != 0)
    }

    pub(crate) fn find(&self, tag: Tag, addr: u64) -> Option<Mapping> {
        self.shifts().find_map(|shift| self.mappings.get(&(tag, shift, addr >> shift)).copied())
    }

    pub(crate) fn put(&mut self, tag: Tag, addr: u64, mapping: Mapping, epoch: u64) {
        if epoch != self.epoch {
            return;
        }
        if self.mappings.len() >= MOST {
            self.forget_mappings();
        }
        self.scanned = self.scanned.saturating_sub(MOST / 64);
        self.sizes |= 1 << mapping.shift.min(63);
        self.has_global |= mapping.global;
        self.mappings.insert((tag, mapping.shift, addr >> mapping.shift), mapping);
    }

    fn forget_mappings(&mut self) {
        self.mappings.clear();
        self.sizes = 0;
        self.has_global = false;
    }

    pub(crate) fn forget_all(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.streams.clear();
        self.forget_mappings();
    }

    /// Forgets configurations: of streams from `first` to `last`.
    pub(crate) fn forget_streams(&mut self, first: u32, last: u32) {
        self.epoch = self.epoch.wrapping_add(1);
        self.streams.retain(|sid, _| !(first..=last).contains(&u32::from(*sid)));
    }

    /// Forgets translations.
    pub(crate) fn forget(&mut self, scope: Scope) {
        self.epoch = self.epoch.wrapping_add(1);
        self.scanned = self.scanned.saturating_add(self.mappings.len());
        if self.scanned > MOST_SCANNED {
            self.scanned = 0;
            self.forget_mappings();
            return;
        }
        match scope {
            Scope::All => self.forget_mappings(),
            Scope::Machine { vmid, stage1_only } => self
                .mappings
                .retain(|(tag, ..), _| tag.vmid != vmid || stage1_only && tag.asid.is_none()),
            Scope::Space { vmid, asid } => self
                .mappings
                .retain(|(tag, ..), m| tag.vmid != vmid || tag.asid != Some(asid) || m.global),
            Scope::Range { vmid, asid, first, pages, page_bits } => match asid {
                Some(asid) if pages <= MANY_PAGES && !self.has_global => {
                    let tag = Tag { vmid, asid: Some(asid) };
                    self.forget_pages(tag, (first, pages, page_bits));
                }
                _ => {
                    let last = last_of(first, pages, page_bits);
                    self.mappings.retain(|(tag, shift, page), m| {
                        let ours = tag.vmid == vmid
                            && tag.asid.is_some()
                            && (asid.is_none() || tag.asid == asid || m.global);
                        !(ours && meets((*shift, *page), first, last))
                    });
                }
            },
            Scope::Second { vmid, first, pages, page_bits } => {
                let last = last_of(first, pages, page_bits);
                self.mappings.retain(|(tag, shift, page), _| {
                    // Where stage 1 is in front, nobody knows which ones went through there.
                    let ours = tag.vmid == vmid
                        && (tag.asid.is_some() || meets((*shift, *page), first, last));
                    !ours
                });
            }
        }
    }

    fn forget_pages(&mut self, tag: Tag, (first, pages, page_bits): (u64, u64, u32)) {
        for shift in self.shifts() {
            let mut done = None;
            for number in 0..pages {
                let at = first.wrapping_add(number << page_bits) >> shift;
                if done != Some(at) {
                    self.mappings.remove(&(tag, shift, at));
                    done = Some(at);
                }
                if shift < page_bits {
                    // Smaller mappings within a larger page.
                    let within = 1u64 << (page_bits - shift);
                    for other in at..at.saturating_add(within) {
                        self.mappings.remove(&(tag, shift, other));
                    }
                }
            }
        }
    }
}

fn last_of(first: u64, pages: u64, page_bits: u32) -> u64 {
    let len = pages.saturating_mul(1 << page_bits);
    first.saturating_add(len.saturating_sub(1))
}

fn meets((shift, page): (u32, u64), first: u64, last: u64) -> bool {
    // Addresses without the upper bits that the page number keeps.
    let start = page << shift;
    let end = start | ((1u64 << shift) - 1);
    start <= last && first <= end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(shift: u32, global: bool) -> Mapping {
        Mapping { base: 0x8000_0000, shift, read: true, write: true, global }
    }

    #[test]
    fn what_is_forgotten_is_what_was_asked() {
        let mut cache = Cache::default();
        let tag = |asid| Tag { vmid: 0, asid };
        let fill = |cache: &mut Cache| {
            cache.put(tag(Some(1)), 0x1234, mapping(12, false), cache.epoch);
            cache.put(tag(Some(2)), 0x20_0000, mapping(21, false), cache.epoch);
            cache.put(tag(None), 0x5000, mapping(12, false), cache.epoch);
        };
        let left = |cache: &Cache| {
            [(Some(1), 0x1fff), (Some(2), 0x3f_ffff), (None, 0x5000)]
                .map(|(asid, at)| cache.find(tag(asid), at).is_some())
        };
        let page = |first, asid| Scope::Range { vmid: 0, asid, first, pages: 1, page_bits: 12 };
        for (scope, expected) in [
            (Scope::All, [false, false, false]),
            (Scope::Machine { vmid: 0, stage1_only: true }, [false, false, true]),
            (Scope::Machine { vmid: 1, stage1_only: false }, [true, true, true]),
            (Scope::Space { vmid: 0, asid: 2 }, [true, false, true]),
            (page(0x1000, Some(1)), [false, true, true]),
            (page(0x21_3000, None), [true, false, true]),
            (
                Scope::Second { vmid: 0, first: 0x5000, pages: 1, page_bits: 12 },
                [false, false, false],
            ),
        ] {
            let mut cache = Cache::default();
            fill(&mut cache);
            cache.forget(scope);
            assert_eq!(left(&cache), expected, "{scope:?}");
        }
        let epoch = cache.epoch;
        cache.forget(Scope::All);
        cache.put(tag(None), 0, mapping(12, false), epoch);
        assert!(cache.find(tag(None), 0).is_none(), "what was walked before is stale");
        cache.put(tag(Some(1)), 0x1000, mapping(12, true), cache.epoch);
        cache.forget(page(0x1000, Some(9)));
        assert!(cache.find(tag(Some(1)), 0x1000).is_none(), "a global one is in all spaces");
    }
}
