//! Guest memory as queues see it: RAM only.
//!
//! Rings and buffers are reached without ever calling a device, so queue locks
//! may be held meanwhile. Anything that is not RAM breaks the device.

use device::DmaView;

/// The driver gave an address that is not RAM, or a ring that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad(pub(crate) &'static str);

const NOT_RAM: Bad = Bad("a ring is not in RAM");

pub(crate) fn load(view: &mut DmaView, at: u64, size: u32) -> Result<u64, Bad> {
    let ram = view.ram_at(at).filter(|r| r.len >= size.into()).ok_or(NOT_RAM)?;
    ram.block.load(ram.offset, size).map_err(|_| NOT_RAM)
}

pub(crate) fn load16(view: &mut DmaView, at: u64) -> Result<u16, Bad> {
    Ok(u16::try_from(load(view, at, 2)?).unwrap_or(0))
}

pub(crate) fn load32(view: &mut DmaView, at: u64) -> Result<u32, Bad> {
    Ok(u32::try_from(load(view, at, 4)?).unwrap_or(0))
}

pub(crate) fn store(view: &mut DmaView, at: u64, size: u32, value: u64) -> Result<(), Bad> {
    let ram =
        view.ram_for(at, true).filter(|r| r.len >= size.into() && !r.readonly).ok_or(NOT_RAM)?;
    ram.block.store(ram.offset, size, value).map_err(|_| NOT_RAM)
}

pub(crate) fn put16(view: &mut DmaView, at: u64, value: u16) -> Result<(), Bad> {
    store(view, at, 2, value.into())
}

/// Copies out of RAM; the bytes may lie in several blocks.
pub(crate) fn read(view: &mut DmaView, mut at: u64, out: &mut [u8]) -> Result<(), Bad> {
    let mut rest = out;
    while !rest.is_empty() {
        let ram = view.ram_at(at).ok_or(NOT_RAM)?;
        let n = usize::try_from(ram.len).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        ram.block.read(ram.offset, now).map_err(|_| NOT_RAM)?;
        at = at.checked_add(n as u64).ok_or(NOT_RAM)?;
        rest = later;
    }
    Ok(())
}
