//! The split ring (virtio 1.3, section 2.7).

use std::sync::atomic::{Ordering, fence};

use device::DmaView;

use crate::chain::{Buffers, Descriptor, INDIRECT, NEXT};
use crate::feature;
use crate::mem::{self, Bad};
use crate::queue::QueueState;

/// The driver wants no interrupts (2.7.7).
const NO_INTERRUPT: u16 = 1;
/// The device wants no notifications (2.7.10).
const NO_NOTIFY: u16 = 1;

fn at(area: u64, offset: u64) -> Result<u64, Bad> {
    area.checked_add(offset).ok_or(Bad("a ring wraps around"))
}

fn avail_idx(view: &mut DmaView, s: &QueueState) -> Result<u16, Bad> {
    let idx = mem::load16(view, at(s.driver, 2)?)?;
    if idx.wrapping_sub(s.avail) > s.size {
        return Err(Bad("the available index moved by more than the queue's size"));
    }
    Ok(idx)
}

pub(crate) fn is_empty(view: &mut DmaView, s: &QueueState) -> Result<bool, Bad> {
    Ok(avail_idx(view, s)? == s.avail)
}

/// 2.7.10: asks for a notification at the next entry, or for none.
pub(crate) fn arm(view: &mut DmaView, s: &QueueState) -> Result<(), Bad> {
    if !s.has(feature::EVENT_IDX) {
        let flags = if s.quiet { NO_NOTIFY } else { 0 };
        return mem::put16(view, s.device, flags);
    }
    if s.quiet {
        // An index that was passed already asks for nothing for the next 65535 entries.
        return Ok(());
    }
    mem::put16(view, at(s.device, 4 + 8 * u64::from(s.size))?, s.avail)?;
    fence(Ordering::SeqCst);
    Ok(())
}

pub(crate) fn pop(view: &mut DmaView, s: &mut QueueState) -> Result<Option<Buffers>, Bad> {
    if is_empty(view, s)? {
        if !s.has(feature::EVENT_IDX) {
            return Ok(None);
        }
        arm(view, s)?;
        if is_empty(view, s)? {
            return Ok(None);
        }
    }
    fence(Ordering::Acquire);
    let slot = u64::from(s.avail % s.size);
    let head = mem::load16(view, at(s.driver, 4 + 2 * slot)?)?;
    let buffers = walk(view, s, head)?;
    s.avail = s.avail.wrapping_add(1);
    if s.has(feature::EVENT_IDX) {
        arm(view, s)?;
    }
    Ok(Some(buffers))
}

fn walk(view: &mut DmaView, s: &QueueState, head: u16) -> Result<Buffers, Bad> {
    let mut buffers = Buffers::of(head);
    let mut index = head;
    for _ in 0..s.size {
        if index >= s.size {
            return Err(Bad("a descriptor index is beyond the queue's size"));
        }
        let d = Descriptor::split(view, at(s.desc, 16 * u64::from(index))?)?;
        if d.flags & INDIRECT != 0 {
            // The peer takes tables whether they were negotiated or not; so do drivers' bugs.
            buffers.add_indirect(view, d, false)?;
            return Ok(buffers);
        }
        buffers.add(view, d)?;
        if d.flags & NEXT == 0 {
            return Ok(buffers);
        }
        index = d.extra;
    }
    Err(Bad("a descriptor chain loops"))
}

/// Writes an entry of the used ring; the driver sees it after [`publish`].
pub(crate) fn push(
    view: &mut DmaView,
    s: &mut QueueState,
    head: u16,
    written: u32,
) -> Result<(), Bad> {
    let slot = u64::from(s.used % s.size);
    let entry = at(s.device, 4 + 8 * slot)?;
    mem::store(view, entry, 4, head.into())?;
    mem::store(view, at(entry, 4)?, 4, written.into())?;
    s.used = s.used.wrapping_add(1);
    s.unsignalled = s.unsignalled.saturating_add(1);
    Ok(())
}

/// Shows the driver all entries written so far.
pub(crate) fn publish(view: &mut DmaView, s: &QueueState) -> Result<(), Bad> {
    fence(Ordering::Release);
    mem::put16(view, at(s.device, 2)?, s.used)
}

pub(crate) fn wants_signal(
    view: &mut DmaView,
    s: &mut QueueState,
    idle: bool,
) -> Result<bool, Bad> {
    if s.has(feature::NOTIFY_ON_EMPTY) && idle && is_empty(view, s)? {
        return Ok(true);
    }
    if s.has(feature::EVENT_IDX) {
        let event = mem::load16(view, at(s.driver, 4 + 2 * u64::from(s.size))?)?;
        let passed = s.used.wrapping_sub(event).wrapping_sub(1);
        return Ok(s.fresh || passed < s.unsignalled);
    }
    Ok(mem::load16(view, s.driver)? & NO_INTERRUPT == 0)
}
