//! What a device is and how it meets the machine.
//!
//! A device is an `Arc` of a struct with immutable wiring and its registers
//! behind a lock. [`DeviceType`] names it and creates it from typed properties;
//! [`DeviceClass`] is the erased form that catalogs list. During creation it
//! talks to a [`Build`], which records its regions, interrupt lines and offered
//! abilities ([`Record`]), so boards wire by name and never know concrete types.
//! Reset is `reset` on all, then `settle` on all. Buses (PCI, virtio) live in
//! their own crates and adapt to this. Locks: a device may call only
//! [`IrqOut::set`] and RAM-only DMA while it holds its lock.
//! Source: the design pages (architecture, section 3.3).

mod abilities;
mod boot_order;
mod build;
mod chars;
mod class;
mod firmware;
mod global;
mod irq;
mod lpi;
mod object;
mod plug;
mod reset;
mod run;
mod services;

pub use abilities::{
    Balloon, BalloonStats, CpuCount, Entropy, GuestEvents, MemoryDevice, MemoryDeviceState,
    MemorySlots, NodeCount, RamSize, SecretBytes, SlotStatus,
};
pub use boot_order::BootEntry;
pub use build::{Build, CharSource, IrqIn, Record, WallClock, World};
pub use chars::{CharBackend, CharEvent, CharPort, CharReceiver};
pub use class::{BoxFuture, Bus, Device, DeviceClass, DeviceType, Reset};
pub use evloop::{Clock, Timer};
pub use firmware::{FirmwareConfig, LateFiles, LateTables, LoadRequest, PciAddress};
pub use global::{Global, Globals};
pub use irq::{IrqController, IrqOut, IrqSink, cpu_input};
pub use lpi::{LpiSource, Lpis};
pub use memory::{
    Access, AccessRules, AddressSpace, BusFault, Dma, DmaFault, DmaView, Front, Mmio, RamSlice,
    Region, Size, Translate, Translated, TxAttrs,
};
pub use object::{
    Getter, Held, Object, ObjectBuild, ObjectClass, ObjectType, Objects, Setter, ThreadId,
};
pub use plug::{Departure, Devices, Numbers, PlugBus, Unplug};
pub use reset::ResetTree;
pub use run::{Cause, Request, RunControl};
pub use services::{Services, Storage, StorageSource};
pub use vmstate::{Migration, Saved};
