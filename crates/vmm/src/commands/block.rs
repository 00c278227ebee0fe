//! Commands about storage: what there is ([`info`], [`stats`]), nodes and media ([`change`]),
//! layers ([`snapshot`], [`layers`]), jobs ([`jobs`]), new images ([`create`]).
//!
//! Slots are [`block::Backend`]s: those of `-drive` by their ids, those that devices made by the
//! device; limits and thresholds are in [`limits`], internal snapshots in [`internal`]. Not here:
//! bitmaps, exports. The human monitor alone has [`io`] and [`commit_now`].
//! Source: QEMU's QMP reference; replies compared with QEMU 10.0.

pub(super) mod change;
pub(super) mod commit_now;
pub(super) mod create;
pub(super) mod debug;
pub(super) mod info;
pub(super) mod internal;
pub(super) mod io;
mod io_more;
pub(super) mod jobs;
pub(super) mod layers;
pub(super) mod limits;
pub(super) mod order;
pub(super) mod snapshot;
pub(super) mod stats;

use std::sync::Arc;

use block::{Backend, Graph, Node, Slotted};
use qapi::{Class, Error, Result};

use crate::Vm;

/// The machine's storage.
pub(super) fn graph(vm: &Vm) -> Result<Arc<Graph>> {
    vm.services.find::<Arc<Graph>>().ok_or_else(|| Error::generic("there is no storage"))
}

/// Devices with a slot: their names as `qdev` says them, and the slots.
pub(super) fn slotted(vm: &Vm) -> Vec<(String, Slotted)> {
    let all = vm.machine().map(|machine| machine.devices.all()).unwrap_or_default();
    let mut anonymous = 0;
    let mut found = Vec::new();
    for record in all.iter().filter(|record| record.parent.is_some()) {
        let is_anonymous = record.id.contains('[');
        let number = anonymous;
        anonymous += usize::from(is_anonymous);
        let Some(slot) = record.ability::<Slotted>() else { continue };
        let path = if is_anonymous {
            format!("/machine/peripheral-anon/device[{number}]")
        } else {
            format!("/machine/peripheral/{}", record.id)
        };
        // The disk of a virtio device on PCI is the device behind the transport.
        let is_behind =
            record.class.bus == device::Bus::Pci && record.class.name.contains("virtio");
        let name = if is_behind {
            format!("{path}/virtio-backend")
        } else if is_anonymous {
            path
        } else {
            record.id.clone()
        };
        found.push((name, slot));
    }
    found
}

/// The slot that `device` (a drive's id) or `id` (a device's) means, with its device if it has one.
pub(super) fn slot(
    vm: &Vm,
    device: Option<&str>,
    id: Option<&str>,
) -> Result<(Arc<Backend>, Option<Slotted>)> {
    let devices = slotted(vm);
    let not_found =
        |name: &str| Error::new(Class::DeviceNotFound, format!("Device '{name}' not found"));
    let backend = match (device, id) {
        (Some(name), None) => graph(vm)?.drive(name).ok_or_else(|| not_found(name))?,
        (None, Some(id)) => {
            let path = format!("/machine/peripheral/{id}/virtio-backend");
            let mut all = devices.iter();
            let found = all.find(|(name, _)| name == id || *name == path);
            found.map(|(_, slot)| slot.backend().clone()).ok_or_else(|| not_found(id))?
        }
        _ => return Err(Error::generic("Need exactly one of 'device' and 'id'")),
    };
    let user = devices.into_iter().find(|(_, slot)| Arc::ptr_eq(slot.backend(), &backend));
    Ok((backend, user.map(|(_, slot)| slot)))
}

/// The node that `device` (a drive's id) or `node-name` means.
pub(super) fn node(vm: &Vm, device: Option<&str>, name: Option<&str>) -> Result<Arc<Node>> {
    let graph = graph(vm)?;
    if let Some(drive) = device.and_then(|device| graph.drive(device)) {
        let name = device.unwrap_or("");
        return drive
            .node()
            .ok_or_else(|| Error::generic(format!("Device '{name}' has no medium")));
    }
    name.and_then(|name| graph.find(name)).ok_or_else(|| {
        let (device, name) = (device.unwrap_or(""), name.unwrap_or(""));
        Error::generic(format!("Cannot find device='{device}' nor node-name='{name}'"))
    })
}
