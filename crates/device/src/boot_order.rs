//! The order in which firmware tries devices (QEMU's fw_cfg file `bootorder`).
//!
//! A device with a `bootindex` offers a [`BootEntry`]; its path is made of the names that the buses
//! above it give (Open Firmware, IEEE 1275). Not here: boot options of the legacy BIOS.

use std::sync::Arc;

use memory::FlatView;

use crate::build::Record;
use crate::plug::{Devices, PlugBus};

/// A device that firmware may boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// Its place; smaller ones are tried first, each value is used once.
    pub index: i32,
    /// The end of its path, such as `/disk@0,0`.
    pub node: String,
}

impl Devices {
    /// Paths of all devices with a boot index, in its order.
    #[must_use]
    pub fn boot_order(&self, view: &FlatView) -> Vec<String> {
        let all = self.all();
        let entry = |record: &Arc<Record>| Some((record.clone(), record.ability::<BootEntry>()?));
        let mut entries: Vec<_> = all.iter().filter_map(entry).collect();
        entries.sort_by_key(|(_, entry)| entry.index);
        entries
            .into_iter()
            .filter_map(|(record, entry)| Some(path(&all, &record, view, 8)? + &entry.node))
            .collect()
    }
}

fn bus_of<'a>(all: &'a [Arc<Record>], name: &str) -> Option<(&'a Arc<Record>, Arc<dyn PlugBus>)> {
    all.iter().find_map(|owner| {
        let bus = owner.buses.iter().find(|bus| bus.name() == name)?;
        Some((owner, bus.clone()))
    })
}

/// The path of a device without its own end; `depth` bounds how many buses it is away.
fn path(all: &[Arc<Record>], record: &Record, view: &FlatView, depth: u32) -> Option<String> {
    let (owner, bus) = bus_of(all, record.parent.as_deref()?)?;
    let above = match &owner.parent {
        Some(_) if depth > 0 => path(all, owner, view, depth - 1)?,
        Some(_) => return None,
        None => bus.root_node(address(owner, view)),
    };
    Some(above + &bus.node(record))
}

/// Where a board's device is in memory.
fn address(record: &Record, view: &FlatView) -> u64 {
    let region = record.regions.first();
    let range = view.ranges().iter().find(|range| Some(&range.region) == region);
    range.map_or(u64::MAX, |range| range.start)
}
