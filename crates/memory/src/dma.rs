//! A device's access to guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::flat::RamRange;
use crate::mmio::TxAttrs;
use crate::space::AddressSpace;

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

/// An address space, the requester's identity and its bus-master switch.
#[derive(Clone)]
pub struct Dma {
    space: AddressSpace,
    attrs: TxAttrs,
    bus_master: Arc<AtomicBool>,
}

impl Dma {
    /// DMA into `space`; `bus_master` is shared with whoever switches it.
    #[must_use]
    pub fn new(space: AddressSpace, attrs: TxAttrs, bus_master: Arc<AtomicBool>) -> Dma {
        Dma { space, attrs, bus_master }
    }

    fn check(&self, addr: u64) -> Result<(), DmaFault> {
        if self.bus_master.load(Ordering::Acquire) { Ok(()) } else { Err(DmaFault(addr)) }
    }

    /// Copies from guest memory.
    pub fn read_bytes(&self, addr: u64, out: &mut [u8]) -> Result<(), DmaFault> {
        self.check(addr)?;
        self.space.read(addr, out, self.attrs).map_err(|_| DmaFault(addr))
    }

    /// Copies to guest memory.
    pub fn write_bytes(&self, addr: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.check(addr)?;
        self.space.write(addr, data, self.attrs).map_err(|_| DmaFault(addr))
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

    /// RAM at `addr`; `None` for registers and holes. Takes no device lock, so it
    /// may be used while one is held.
    #[must_use]
    pub fn ram_at(&self, addr: u64) -> Option<RamRange> {
        self.check(addr).ok()?;
        self.space.ram_at(addr)
    }
}
