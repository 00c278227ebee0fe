//! The split ring (virtio 1.3, section 2.7).

use std::sync::atomic::{Ordering, fence};

use device::Dma;

use crate::chain::{Chain, Descriptor, INDIRECT, NEXT};
use crate::feature;
use crate::mem::{self, Bad};
use crate::queue::{QueueState, add_indirect, put16};

/// The driver wants no interrupts (2.7.7).
const NO_INTERRUPT: u16 = 1;

pub(crate) struct Split<'a>(pub(crate) &'a Dma);

impl Split<'_> {
    fn avail_idx(&self, s: &QueueState) -> Result<u16, Bad> {
        let idx = mem::load16(self.0, s.driver.wrapping_add(2))?;
        if idx.wrapping_sub(s.avail) > s.size {
            return Err(Bad("the available index moved by more than the queue's size"));
        }
        Ok(idx)
    }

    /// 2.7.10: asks for a notification at the next entry.
    fn arm(&self, s: &QueueState) -> Result<(), Bad> {
        let at = s.device.wrapping_add(4 + 8 * u64::from(s.size));
        put16(self.0, at, s.avail)?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn pop(&self, s: &mut QueueState) -> Result<Option<Chain>, Bad> {
        if self.avail_idx(s)? == s.avail {
            if !s.has(feature::EVENT_IDX) {
                return Ok(None);
            }
            self.arm(s)?;
            if self.avail_idx(s)? == s.avail {
                return Ok(None);
            }
        }
        fence(Ordering::Acquire);
        let slot = u64::from(s.avail % s.size);
        let head = mem::load16(self.0, s.driver.wrapping_add(4 + 2 * slot))?;
        let chain = self.walk(s, head)?;
        s.avail = s.avail.wrapping_add(1);
        if s.has(feature::EVENT_IDX) {
            self.arm(s)?;
        }
        Ok(Some(chain))
    }

    fn walk(&self, s: &QueueState, head: u16) -> Result<Chain, Bad> {
        let mut chain = Chain::new(self.0, head);
        let mut index = head;
        for _ in 0..s.size {
            if index >= s.size {
                return Err(Bad("a descriptor index is beyond the queue's size"));
            }
            let at = s.desc.wrapping_add(16 * u64::from(index));
            let d = Descriptor::split(self.0, at)?;
            if d.flags & INDIRECT != 0 {
                add_indirect(self.0, &mut chain, d, false)?;
                return Ok(chain);
            }
            chain.add(d)?;
            if d.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = d.extra;
        }
        Err(Bad("a descriptor chain loops"))
    }

    pub(crate) fn push(&self, s: &mut QueueState, head: u16, written: u32) -> Result<(), Bad> {
        let slot = u64::from(s.used % s.size);
        let at = s.device.wrapping_add(4 + 8 * slot);
        mem::store(self.0, at, 4, head.into())?;
        mem::store(self.0, at.wrapping_add(4), 4, written.into())?;
        fence(Ordering::Release);
        s.used = s.used.wrapping_add(1);
        s.unsignalled = s.unsignalled.saturating_add(1);
        put16(self.0, s.device.wrapping_add(2), s.used)
    }

    pub(crate) fn wants_signal(&self, s: &mut QueueState) -> Result<bool, Bad> {
        if s.has(feature::NOTIFY_ON_EMPTY) && self.avail_idx(s)? == s.avail {
            return Ok(true);
        }
        if s.has(feature::EVENT_IDX) {
            let at = s.driver.wrapping_add(4 + 2 * u64::from(s.size));
            let event = mem::load16(self.0, at)?;
            let passed = s.used.wrapping_sub(event).wrapping_sub(1);
            return Ok(s.fresh || passed < s.unsignalled);
        }
        Ok(mem::load16(self.0, s.driver)? & NO_INTERRUPT == 0)
    }
}
