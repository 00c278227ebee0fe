//! A device's access to guest memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use guest_ram::RamSlice;

use crate::flat::RamRange;
use crate::mmio::{BusFault, TxAttrs};
use crate::space::{AddressSpace, CachedView};

/// The access at this address failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA to {0:#x} failed")]
pub struct DmaFault(pub u64);

/// Integers that DMA transfers as little-endian values.
pub trait Plain: Copy + Default {
    /// Bytes of the value.
    type Bytes: AsRef<[u8]> + AsMut<[u8]> + Default;
    /// From little-endian bytes.
    fn from_le(bytes: Self::Bytes) -> Self;
    /// To little-endian bytes.
    fn to_le(self) -> Self::Bytes;
}

macro_rules! plain {
    ($($t:ty),*) => { $(
        impl Plain for $t {
            type Bytes = [u8; size_of::<$t>()];
            fn from_le(bytes: Self::Bytes) -> $t { <$t>::from_le_bytes(bytes) }
            fn to_le(self) -> Self::Bytes { self.to_le_bytes() }
        }
    )* };
}
plain!(u8, u16, u32, u64);

/// Where an address of a device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The address in memory.
    pub addr: u64,
    /// Bytes from there on that follow each other in memory, at least one.
    pub len: u64,
}

/// An IOMMU as one device sees it.
pub trait Translate: Send + Sync {
    /// Where an address leads; `None`: the access is refused, and the IOMMU has said so.
    fn translate(&self, addr: u64, write: bool) -> Option<Translated>;
}

/// What is in front of a device's memory once it is on a bus; empty without an IOMMU.
pub type Front = Arc<OnceLock<Arc<dyn Translate>>>;

/// An address space, the requester's identity and its bus-master switch.
#[derive(Clone)]
pub struct Dma {
    space: AddressSpace,
    attrs: TxAttrs,
    bus_master: Arc<AtomicBool>,
    front: Option<Front>,
}

/// The translator of a front, if there is one.
fn translator(front: &Option<Front>) -> Option<&Arc<dyn Translate>> {
    front.as_ref()?.get()
}

impl Dma {
    /// DMA into `space`; `bus_master` is shared with whoever switches it.
    #[must_use]
    pub fn new(space: AddressSpace, attrs: TxAttrs, bus_master: Arc<AtomicBool>) -> Dma {
        Dma { space, attrs, bus_master, front: None }
    }

    /// The same behind what will be in `front`.
    #[must_use]
    pub fn behind(self, front: Front) -> Dma {
        Dma { front: Some(front), ..self }
    }

    /// Carries out `access` on the pieces of memory that `len` bytes at `addr` are: the address and
    /// the range of each.
    fn pieces(
        &self,
        addr: u64,
        (len, write): (usize, bool),
        mut access: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), BusFault>,
    ) -> Result<(), DmaFault> {
        self.check(addr)?;
        let Some(iommu) = translator(&self.front) else {
            return access(addr, 0..len).map_err(|_| DmaFault(addr));
        };
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let to = iommu.translate(at, write).ok_or(DmaFault(at))?;
            let n = usize::try_from(to.len).unwrap_or(usize::MAX).clamp(1, len - done);
            access(to.addr, done..done + n).map_err(|_| DmaFault(at))?;
            done += n;
        }
        Ok(())
    }

    fn check(&self, addr: u64) -> Result<(), DmaFault> {
        if self.bus_master.load(Ordering::Acquire) { Ok(()) } else { Err(DmaFault(addr)) }
    }

    /// Copies from guest memory.
    pub fn read_bytes(&self, addr: u64, out: &mut [u8]) -> Result<(), DmaFault> {
        self.pieces(addr, (out.len(), false), |at, range| match out.get_mut(range) {
            Some(part) => self.space.read(at, part, self.attrs),
            None => Err(BusFault::Decode),
        })
    }

    /// Copies to guest memory.
    pub fn write_bytes(&self, addr: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.pieces(addr, (data.len(), true), |at, range| match data.get(range) {
            Some(part) => self.space.write(at, part, self.attrs),
            None => Err(BusFault::Decode),
        })
    }

    /// Reads one little-endian value.
    pub fn read<T: Plain>(&self, addr: u64) -> Result<T, DmaFault> {
        let mut bytes = T::Bytes::default();
        self.read_bytes(addr, bytes.as_mut())?;
        Ok(T::from_le(bytes))
    }

    /// Writes one little-endian value.
    pub fn write<T: Plain>(&self, addr: u64, value: T) -> Result<(), DmaFault> {
        self.write_bytes(addr, value.to_le().as_ref())
    }

    /// A way to RAM that is quicker for many accesses.
    #[must_use]
    pub fn view(&self) -> DmaView {
        DmaView {
            view: self.space.cached(),
            bus_master: self.bus_master.clone(),
            front: self.front.clone(),
        }
    }

    /// RAM at `addr`; `None` for registers and holes. Takes no device lock, so it
    /// may be used while one is held.
    #[must_use]
    pub fn ram_at(&self, addr: u64) -> Option<RamRange> {
        self.check(addr).ok()?;
        let Some(iommu) = translator(&self.front) else { return self.space.ram_at(addr) };
        let to = iommu.translate(addr, false)?;
        let ram = self.space.ram_at(to.addr)?;
        Some(RamRange { len: ram.len.min(to.len), ..ram })
    }
}

/// A [`Dma`] that keeps the view of memory until it changes: for one queue or channel.
pub struct DmaView {
    view: CachedView,
    bus_master: Arc<AtomicBool>,
    front: Option<Front>,
}

impl DmaView {
    /// RAM at `addr`; `None` for registers and holes, and while the device may not be bus master.
    #[inline]
    pub fn ram_at(&mut self, addr: u64) -> Option<RamRange> {
        self.ram_for(addr, false)
    }

    /// The same for an access that writes, or does not.
    #[inline]
    pub fn ram_for(&mut self, addr: u64, write: bool) -> Option<RamRange> {
        if !self.bus_master.load(Ordering::Acquire) {
            return None;
        }
        let Some(iommu) = translator(&self.front) else { return self.view.get().ram_at(addr) };
        let to = iommu.translate(addr, write)?;
        let ram = self.view.get().ram_at(to.addr)?;
        Some(RamRange { len: ram.len.min(to.len), ..ram })
    }

    /// The pieces of RAM that `len` bytes at `addr` are, added to `out`; with `write` only RAM
    /// that guests may write. Nothing is added unless all of it is RAM.
    ///
    /// # Errors
    /// The first address that is not.
    pub fn map(
        &mut self,
        addr: u64,
        len: u64,
        write: bool,
        out: &mut Vec<RamSlice>,
    ) -> Result<(), DmaFault> {
        let before = out.len();
        let mut done = 0;
        while done < len {
            let at = addr.checked_add(done).ok_or(DmaFault(addr));
            let piece = at.and_then(|at| {
                let ram = self
                    .ram_for(at, write)
                    .filter(|r| !(write && r.readonly))
                    .ok_or(DmaFault(at))?;
                let n = usize::try_from(ram.len.min(len - done)).map_err(|_| DmaFault(at))?;
                RamSlice::new(ram.block, ram.offset, n).map_err(|_| DmaFault(at))
            });
            match piece {
                Ok(piece) => {
                    done += piece.len() as u64;
                    out.push(piece);
                }
                Err(fault) => {
                    out.truncate(before);
                    return Err(fault);
                }
            }
        }
        Ok(())
    }
}
