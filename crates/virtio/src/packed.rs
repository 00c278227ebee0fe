//! The packed ring (virtio 1.3, section 2.8).

use std::sync::atomic::{Ordering, fence};

use device::Dma;

use crate::chain::{Chain, Descriptor, INDIRECT, NEXT, WRITE};
use crate::feature;
use crate::mem::{self, Bad};
use crate::queue::{QueueState, add_indirect, put16};

// 2.8.1: ownership bits in a descriptor's flags.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
// 2.8.10: values of the event suppression flags.
const DISABLE: u16 = 1;
const AT_ENTRY: u16 = 2;

pub(crate) struct Packed<'a>(pub(crate) &'a Dma);

fn advance(index: &mut u16, wrap: &mut bool, by: u16, size: u16) {
    let next = u32::from(*index) + u32::from(by);
    if next >= size.into() {
        *wrap = !*wrap;
    }
    *index = u16::try_from(next % u32::from(size)).unwrap_or(0);
}

impl Packed<'_> {
    fn entry(s: &QueueState, index: u16) -> u64 {
        s.desc.wrapping_add(16 * u64::from(index))
    }

    pub(crate) fn pop(&self, s: &mut QueueState) -> Result<Option<Chain>, Bad> {
        if s.avail >= s.size {
            return Err(Bad("a ring position is beyond the queue's size"));
        }
        let flags = mem::load16(self.0, Packed::entry(s, s.avail).wrapping_add(14))?;
        let is_avail = flags & AVAIL != 0;
        let is_used = flags & USED != 0;
        if is_avail != s.avail_wrap || is_used == s.avail_wrap {
            return Ok(None);
        }
        fence(Ordering::Acquire);
        let mut chain = Chain::new(self.0, 0);
        let mut index = s.avail;
        for entries in 1..=s.size {
            let d = Descriptor::packed(self.0, Packed::entry(s, index))?;
            chain.id = d.extra;
            chain.entries = entries;
            if d.flags & INDIRECT != 0 {
                add_indirect(self.0, &mut chain, d, true)?;
            } else {
                chain.add(d)?;
            }
            if d.flags & NEXT == 0 || d.flags & INDIRECT != 0 {
                advance(&mut s.avail, &mut s.avail_wrap, entries, s.size);
                return Ok(Some(chain));
            }
            index = (index + 1) % s.size;
        }
        Err(Bad("a packed chain takes the whole ring"))
    }

    pub(crate) fn unpop(s: &mut QueueState, entries: u16) {
        if s.avail < entries {
            s.avail_wrap = !s.avail_wrap;
            s.avail = s.avail.wrapping_add(s.size);
        }
        s.avail = s.avail.wrapping_sub(entries);
    }

    pub(crate) fn push(&self, s: &mut QueueState, chain: &Chain, written: u32) -> Result<(), Bad> {
        if s.used >= s.size {
            return Err(Bad("a ring position is beyond the queue's size"));
        }
        let at = Packed::entry(s, s.used);
        mem::store(self.0, at.wrapping_add(8), 4, written.into())?;
        put16(self.0, at.wrapping_add(12), chain.id)?;
        fence(Ordering::Release);
        let owner = if s.used_wrap { AVAIL | USED } else { 0 };
        let wrote = if written > 0 { WRITE } else { 0 };
        put16(self.0, at.wrapping_add(14), owner | wrote)?;
        advance(&mut s.used, &mut s.used_wrap, chain.entries, s.size);
        s.unsignalled = s.unsignalled.saturating_add(chain.entries);
        Ok(())
    }

    pub(crate) fn wants_signal(&self, s: &mut QueueState) -> Result<bool, Bad> {
        let word = mem::load32(self.0, s.driver)?;
        let [a, b, c, d] = word.to_le_bytes();
        let (place, flags) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]) & 3);
        if flags == DISABLE {
            return Ok(false);
        }
        if flags != AT_ENTRY || !s.has(feature::EVENT_IDX) || s.fresh {
            return Ok(true);
        }
        // 2.8.10.1: did we pass the entry the driver named?
        let wrap = place & 0x8000 != 0;
        let mut event = i32::from(place & 0x7fff);
        if wrap != s.used_wrap {
            event -= i32::from(s.size);
        }
        let used = i32::from(s.used);
        Ok(event < used && event >= used - i32::from(s.unsignalled))
    }
}
