//! The packed ring (virtio 1.3, section 2.8).

use std::sync::atomic::{Ordering, fence};

use device::DmaView;

use crate::chain::{Buffers, Descriptor, INDIRECT, NEXT, WRITE};
use crate::feature;
use crate::mem::{self, Bad};
use crate::queue::QueueState;

// 2.8.1: ownership bits in a descriptor's flags.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
// 2.8.10: values of the event suppression flags.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_ENTRY: u16 = 2;

const BEYOND: Bad = Bad("a ring position is beyond the queue's size");

fn advance(index: &mut u16, wrap: &mut bool, by: u16, size: u16) {
    let next = u32::from(*index) + u32::from(by);
    if next >= size.into() {
        *wrap = !*wrap;
    }
    *index = u16::try_from(next % u32::from(size)).unwrap_or(0);
}

fn at(area: u64, offset: u64) -> Result<u64, Bad> {
    area.checked_add(offset).ok_or(Bad("a ring wraps around"))
}

fn entry(s: &QueueState, index: u16) -> Result<u64, Bad> {
    at(s.desc, 16 * u64::from(index))
}

pub(crate) fn is_empty(view: &mut DmaView, s: &QueueState) -> Result<bool, Bad> {
    if s.avail >= s.size {
        return Err(BEYOND);
    }
    let flags = mem::load16(view, at(entry(s, s.avail)?, 14)?)?;
    let (is_avail, is_used) = (flags & AVAIL != 0, flags & USED != 0);
    Ok(is_avail != s.avail_wrap || is_used == s.avail_wrap)
}

/// 2.8.10: asks for notifications, for the one at the next entry, or for none.
pub(crate) fn arm(view: &mut DmaView, s: &QueueState) -> Result<(), Bad> {
    let flags = match (s.quiet, s.has(feature::EVENT_IDX)) {
        (true, _) => DISABLE,
        (false, false) => ENABLE,
        (false, true) => {
            let wrap = if s.avail_wrap { 0x8000 } else { 0 };
            mem::put16(view, s.device, s.avail | wrap)?;
            // The flags say that the entry is to be looked at: they come last.
            fence(Ordering::Release);
            AT_ENTRY
        }
    };
    mem::put16(view, at(s.device, 2)?, flags)?;
    fence(Ordering::SeqCst);
    Ok(())
}

pub(crate) fn pop(view: &mut DmaView, s: &mut QueueState) -> Result<Option<Buffers>, Bad> {
    if is_empty(view, s)? {
        if !s.has(feature::EVENT_IDX) || s.quiet {
            return Ok(None);
        }
        arm(view, s)?;
        if is_empty(view, s)? {
            return Ok(None);
        }
    }
    fence(Ordering::Acquire);
    let mut buffers = Buffers::of(0);
    let mut index = s.avail;
    for entries in 1..=s.size {
        let d = Descriptor::packed(view, entry(s, index)?)?;
        buffers.id = d.extra;
        buffers.entries = entries;
        if d.flags & INDIRECT != 0 {
            buffers.add_indirect(view, d, true)?;
        } else {
            buffers.add(view, d)?;
        }
        if d.flags & NEXT == 0 || d.flags & INDIRECT != 0 {
            advance(&mut s.avail, &mut s.avail_wrap, entries, s.size);
            return Ok(Some(buffers));
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

/// What shows the driver a written entry: where, and the flags.
pub(crate) struct Shown(u64, u16);

/// Writes an entry; the driver sees it after [`publish`].
pub(crate) fn push(
    view: &mut DmaView,
    s: &mut QueueState,
    (id, entries): (u16, u16),
    written: u32,
) -> Result<Shown, Bad> {
    if s.used >= s.size {
        return Err(BEYOND);
    }
    let entry = entry(s, s.used)?;
    mem::store(view, at(entry, 8)?, 4, written.into())?;
    mem::put16(view, at(entry, 12)?, id)?;
    let owner = if s.used_wrap { AVAIL | USED } else { 0 };
    let wrote = if written > 0 { WRITE } else { 0 };
    let shown = Shown(at(entry, 14)?, owner | wrote);
    advance(&mut s.used, &mut s.used_wrap, entries, s.size);
    s.unsignalled = s.unsignalled.saturating_add(entries);
    Ok(shown)
}

/// Shows the driver entries: the first one last, because it looks at them in order (2.8.6).
pub(crate) fn publish(view: &mut DmaView, entries: &[Shown]) -> Result<(), Bad> {
    fence(Ordering::Release);
    let (first, rest) = entries.split_first().ok_or(BEYOND)?;
    for Shown(at, flags) in rest {
        mem::put16(view, *at, *flags)?;
    }
    fence(Ordering::Release);
    mem::put16(view, first.0, first.1)
}

pub(crate) fn wants_signal(view: &mut DmaView, s: &mut QueueState) -> Result<bool, Bad> {
    let word = mem::load32(view, s.driver)?;
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
