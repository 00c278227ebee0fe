//! A memory module (`pc-dimm`): memory that an object made, in a slot of the machine.
//!
//! The slots (`memory_slots`) choose slot and address and map it. Not modelled: labels, `unarmed`.
//! Source: QEMU's manual; names, defaults and messages are the peer's.

use std::sync::{Arc, OnceLock};

use derive::Qapi;
use device::{
    Build, Bus, Device, DeviceClass, DeviceType, Held, MemoryDevice, MemoryDeviceState, Migration,
    Reset,
};
use guest_ram::RamBlock;
use qapi::{Error, Result};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<PcDimm>();

/// The name of an object with memory.
#[derive(Clone, Debug)]
pub struct MemoryLink(String);

impl qapi::Qapi for MemoryLink {
    fn type_info() -> &'static qapi::TypeInfo {
        static INFO: qapi::TypeInfo =
            qapi::TypeInfo { name: "link<memory-backend>", doc: "", kind: qapi::Kind::Str };
        &INFO
    }
    fn from_value(value: qapi::Value, source: qapi::Source) -> Result<Self> {
        String::from_value(value, source).map(Self)
    }
    fn to_value(&self) -> qapi::Value {
        self.0.to_value()
    }
}

/// Properties of `pc-dimm`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// First address; 0: the next free one
    #[qapi(default = 0)]
    pub addr: u64,
    /// Object whose memory it is
    pub memdev: Option<MemoryLink>,
    /// Node of the memory
    #[qapi(default = 0)]
    pub node: u32,
    /// Bytes; follows from the object and cannot be set
    pub size: Option<u64>,
    /// Slot; -1: the next free one
    #[qapi(default = -1)]
    pub slot: i32,
}

/// The module as its slot sees it.
pub struct Dimm {
    props: Props,
    memory: Option<Held<Arc<RamBlock>>>,
    placed: OnceLock<(u32, u64, bool)>,
}

impl Dimm {
    pub(crate) fn wanted_slot(&self) -> i32 {
        self.props.slot
    }

    pub(crate) fn wanted_address(&self) -> u64 {
        self.props.addr
    }

    pub(crate) fn node(&self) -> u32 {
        self.props.node
    }

    pub(crate) fn memdev(&self) -> &str {
        self.props.memdev.as_ref().map_or("", |link| &link.0)
    }

    pub(crate) fn block(&self) -> Result<Arc<RamBlock>> {
        let memory = self.memory.as_ref();
        memory
            .map(|held| Arc::clone(held))
            .ok_or_else(|| Error::generic("'memdev' property must be set"))
    }

    pub(crate) fn placed(&self, slot: usize, base: u64, hot: bool) {
        _ = self.placed.set((u32::try_from(slot).unwrap_or(u32::MAX), base, hot));
    }
}

impl MemoryDevice for Dimm {
    fn state(&self) -> Option<MemoryDeviceState> {
        let (slot, addr, hotplugged) = self.placed.get().copied()?;
        Some(MemoryDeviceState {
            addr,
            size: self.memory.as_ref().map_or(0, |m| m.len()),
            slot,
            node: self.props.node,
            memdev: format!("/objects/{}", self.memdev()),
            hotplugged,
        })
    }
}

/// The device.
pub struct PcDimm(#[expect(dead_code, reason = "kept alive")] Arc<Dimm>);

impl DeviceType for PcDimm {
    const NAME: &'static str = "pc-dimm";
    const BUS: Bus = Bus::Memory;
    const SUMMARY: &'static str = "DIMM memory module";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        if props.size.is_some() {
            return Err(Error::generic("Property 'pc-dimm.size' cannot be set"));
        }
        let memory = match &props.memdev {
            None => None,
            Some(MemoryLink(id)) => {
                if at.world().objects.is_held(id) {
                    return Err(Error::generic(format!("can't use already busy memdev: {id}")));
                }
                Some(at.object::<Arc<RamBlock>>("memdev", id, "memory-backend")?)
            }
        };
        let dimm = Arc::new(Dimm { props, memory, placed: OnceLock::new() });
        at.offer::<Arc<dyn MemoryDevice>>(dimm.clone());
        at.offer::<Arc<Dimm>>(dimm.clone());
        Ok(Arc::new(PcDimm(dimm)))
    }
}

impl Device for PcDimm {
    fn reset(&self, _: Reset) {}

    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}
