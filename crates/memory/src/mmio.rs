//! One access to device registers, and the rules that shape it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// One byte.
    B1 = 1,
    /// Two bytes.
    B2 = 2,
    /// Four bytes.
    B4 = 4,
    /// Eight bytes.
    B8 = 8,
}

impl Size {
    /// The width in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    /// From a width in bytes.
    #[must_use]
    pub const fn from_bytes(n: u64) -> Option<Size> {
        match n {
            1 => Some(Size::B1),
            2 => Some(Size::B2),
            4 => Some(Size::B4),
            8 => Some(Size::B8),
            _ => None,
        }
    }

    /// All value bits of this width.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// Swaps the bytes of a value of this width.
    #[must_use]
    pub const fn swap(self, value: u64) -> u64 {
        value.swap_bytes() >> (64 - 8 * self.bytes())
    }

    /// The largest width that is at most `len` and divides `at`.
    #[must_use]
    pub fn largest_at(at: u64, len: u64) -> Size {
        [Size::B8, Size::B4, Size::B2]
            .into_iter()
            .find(|s| s.bytes() <= len && at.is_multiple_of(s.bytes()))
            .unwrap_or(Size::B1)
    }
}

/// Who makes an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxAttrs {
    /// Bus identity of the requester (a PCI function, a CPU).
    pub requester: u16,
    /// From the secure world.
    pub secure: bool,
    /// From unprivileged code.
    pub user: bool,
}

/// An access as a device sees it.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Byte offset in the region, a multiple of the size unless the rules allow otherwise.
    pub offset: u64,
    /// Width, within the region's handled sizes.
    pub size: Size,
    /// Who asks.
    pub attrs: TxAttrs,
}

/// What the guest sees when an access fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusFault {
    /// Nothing is there, or not for this size or alignment.
    #[error("nothing at this address takes the access")]
    Decode,
    /// The device answered with an error.
    #[error("the device refused the access")]
    Device,
    /// The access would re-enter a device that is being accessed by this thread.
    #[error("the access re-enters a device")]
    Reentrant,
}

/// Register access; implemented by devices.
pub trait Mmio: Send + Sync + 'static {
    /// Reads; the value's upper bits beyond the size are ignored.
    fn read(&self, at: Access) -> Result<u64, BusFault>;
    /// Writes; the value has no bits beyond the size.
    fn write(&self, at: Access, value: u64) -> Result<(), BusFault>;
}

/// Which accesses a region takes and which its device wants to see.
#[derive(Clone, Copy, Debug)]
pub struct AccessRules {
    /// Smallest and largest size the guest may use; others fault.
    pub valid: (Size, Size),
    /// Smallest and largest size the device is called with.
    pub handled: (Size, Size),
    /// Whether unaligned accesses are taken (else they fault).
    pub unaligned: bool,
    /// Whether the registers are big-endian.
    pub big_endian: bool,
}

impl AccessRules {
    /// 32-bit registers, any narrower access taken.
    pub const WORD32: AccessRules = AccessRules {
        valid: (Size::B1, Size::B4),
        handled: (Size::B4, Size::B4),
        unaligned: false,
        big_endian: false,
    };
    /// Any size up to 64 bits, passed on as it comes.
    pub const ANY: AccessRules = AccessRules {
        valid: (Size::B1, Size::B8),
        handled: (Size::B1, Size::B8),
        unaligned: false,
        big_endian: false,
    };

    fn refuses(&self, offset: u64, size: Size) -> bool {
        size < self.valid.0
            || size > self.valid.1
            || (!self.unaligned && !offset.is_multiple_of(size.bytes()))
    }
}

/// Accesses to one region since the start.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    faults: AtomicU64,
}

impl Counters {
    /// Reads, writes and faults so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        (get(&self.reads), get(&self.writes), get(&self.faults))
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Devices this thread is inside of, by address.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks a device as entered by this thread.
struct Entered;

impl Entered {
    fn new(ops: &dyn Mmio) -> Result<Entered, BusFault> {
        let id = std::ptr::from_ref(ops).addr();
        INSIDE.with_borrow_mut(|inside| {
            if inside.contains(&id) {
                return Err(BusFault::Reentrant);
            }
            inside.push(id);
            Ok(Entered)
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(|inside| inside.pop());
    }
}

/// A device's registers with their rules: the dispatcher.
pub(crate) struct Target<'a> {
    pub(crate) ops: &'a dyn Mmio,
    pub(crate) rules: &'a AccessRules,
    pub(crate) counters: &'a Counters,
}

impl Target<'_> {
    pub(crate) fn read(&self, offset: u64, size: Size, attrs: TxAttrs) -> Result<u64, BusFault> {
        Counters::count(&self.counters.reads);
        let result = self.read_uncounted(offset, size, attrs);
        if result.is_err() {
            Counters::count(&self.counters.faults);
        }
        result
    }

    fn read_uncounted(&self, offset: u64, size: Size, attrs: TxAttrs) -> Result<u64, BusFault> {
        if self.rules.refuses(offset, size) {
            return Err(BusFault::Decode);
        }
        let _entered = Entered::new(self.ops)?;
        let (min, max) = self.rules.handled;
        if size < min {
            // Read the whole register and pick the lanes.
            let lane = offset % min.bytes();
            let at = Access { offset: offset - lane, size: min, attrs };
            return Ok((self.piece(at)? >> (8 * lane)) & size.mask());
        }
        if size <= max {
            return self.piece(Access { offset, size, attrs });
        }
        let mut value = 0;
        for done in (0..size.bytes()).step_by(max as usize) {
            let at = Access { offset: offset.wrapping_add(done), size: max, attrs };
            value |= self.piece(at)? << (8 * done);
        }
        Ok(value)
    }

    fn piece(&self, at: Access) -> Result<u64, BusFault> {
        let value = self.ops.read(at)? & at.size.mask();
        Ok(if self.rules.big_endian { at.size.swap(value) } else { value })
    }

    pub(crate) fn write(
        &self,
        offset: u64,
        size: Size,
        value: u64,
        attrs: TxAttrs,
    ) -> Result<(), BusFault> {
        Counters::count(&self.counters.writes);
        let result = self.write_uncounted(offset, size, value & size.mask(), attrs);
        if result.is_err() {
            Counters::count(&self.counters.faults);
        }
        result
    }

    fn write_uncounted(
        &self,
        offset: u64,
        size: Size,
        value: u64,
        attrs: TxAttrs,
    ) -> Result<(), BusFault> {
        if self.rules.refuses(offset, size) {
            return Err(BusFault::Decode);
        }
        let _entered = Entered::new(self.ops)?;
        let (min, max) = self.rules.handled;
        if size < min {
            let lane = offset % min.bytes();
            let at = Access { offset: offset - lane, size: min, attrs };
            return self.put(at, value << (8 * lane));
        }
        if size <= max {
            return self.put(Access { offset, size, attrs }, value);
        }
        for done in (0..size.bytes()).step_by(max as usize) {
            let at = Access { offset: offset.wrapping_add(done), size: max, attrs };
            self.put(at, (value >> (8 * done)) & max.mask())?;
        }
        Ok(())
    }

    fn put(&self, at: Access, value: u64) -> Result<(), BusFault> {
        self.ops.write(at, if self.rules.big_endian { at.size.swap(value) } else { value })
    }
}
