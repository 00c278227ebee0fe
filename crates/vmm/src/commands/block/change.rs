//! Nodes come and go, disks change their length, media are changed.

use derive::Qapi;
use qapi::{Error, Qapi as _, Result, Source, Value};

use super::super::QmpCommand;
use super::{graph, node, slot, slotted};
use crate::Vm;

/// Add a node to the block graph.
#[derive(Qapi)]
pub(crate) struct BlockdevAdd {
    #[qapi(rest)]
    options: Value,
}

impl QmpCommand for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        graph(vm)?.add(self.options, Source::Json).map(|_| ())
    }
}

/// Give nodes other options.
#[derive(Qapi)]
pub(crate) struct BlockdevReopen {
    /// The options of each, as for `blockdev-add`.
    options: Vec<Value>,
}

impl QmpCommand for BlockdevReopen {
    const NAME: &'static str = "blockdev-reopen";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        graph(vm)?.reopen(self.options)
    }
}

/// Delete a node that was added.
#[derive(Qapi)]
pub(crate) struct BlockdevDel {
    /// Its name.
    node_name: String,
}

impl QmpCommand for BlockdevDel {
    const NAME: &'static str = "blockdev-del";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        graph(vm)?.delete(&self.node_name)
    }
}

/// Change the length of a disk.
#[derive(Qapi)]
pub(crate) struct BlockResize {
    /// The drive.
    device: Option<String>,
    /// Or the node.
    node_name: Option<String>,
    /// New length in bytes.
    size: i64,
}

impl QmpCommand for BlockResize {
    const NAME: &'static str = "block_resize";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let node = node(vm, self.device.as_deref(), self.node_name.as_deref())?;
        let size = u64::try_from(self.size).map_err(|_| Error::expects("size", "a >0 size"))?;
        if node.is_read_only() {
            return Err(Error::generic(format!("Block node '{}' is read-only", node.name())));
        }
        let graph = graph(vm)?;
        if let Some(why) = graph.why_blocked(&node) {
            let name = graph.name_of(&node);
            return Err(Error::generic(format!("Node '{name}' is busy: {why}")));
        }
        let resized = {
            let _drained = graph.drain();
            node.driver().truncate(size, block::Preallocation::Off)
        };
        resized.map_err(|error| Error::generic(host::reason(&error)))?;
        for (_, device) in slotted(vm) {
            let root = device.backend().node();
            if root.is_some_and(|root| std::sync::Arc::ptr_eq(&root, &node)) {
                device.resized();
            }
        }
        Ok(())
    }
}

/// What `DEVICE_TRAY_MOVED` says.
#[derive(Qapi)]
pub(crate) struct TrayMoved {
    /// The drive's id.
    device: String,
    /// The device.
    id: String,
    /// It is open now.
    tray_open: bool,
}

/// Moves a tray; whether it is where it should be.
fn move_tray(
    vm: &Vm,
    device: Option<&str>,
    id: Option<&str>,
    open: bool,
    force: bool,
) -> Result<()> {
    let (backend, user) = slot(vm, device, id)?;
    let name = device.or(id).unwrap_or("");
    let removable = backend.user().is_none_or(|user| user.removable);
    if !removable {
        return Err(Error::generic(format!("Device '{name}' is not removable")));
    }
    let Some(user) = user else { return Ok(()) };
    let Some(now) = user.tray_open() else { return Ok(()) };
    if now == open {
        return Ok(());
    }
    if !user.move_tray(open, force) {
        let text = format!(
            "Device '{name}' is locked and force was not specified, wait for tray to open and try again"
        );
        return Err(Error::generic(text));
    }
    let all = slotted(vm);
    let qdev = all.iter().find(|(_, slot)| std::sync::Arc::ptr_eq(slot.backend(), &backend));
    let id = qdev.map(|(name, _)| name.clone()).unwrap_or_default();
    let data = TrayMoved { device: backend.name().to_owned(), id, tray_open: open };
    vm.emit("DEVICE_TRAY_MOVED", Some(data.to_value()));
    Ok(())
}

/// Opens a slot's tray if it has one and takes the medium out.
fn take_out(vm: &Vm, device: Option<&str>, id: Option<&str>) -> Result<()> {
    let (backend, user) = slot(vm, device, id)?;
    let name = device.or(id).unwrap_or("");
    if !backend.user().is_none_or(|user| user.removable) {
        return Err(Error::generic(format!("Device '{name}' is not removable")));
    }
    if user.as_ref().is_some_and(|user| user.tray_open() == Some(false)) {
        return Err(Error::generic(format!("Tray of device '{name}' is not open")));
    }
    backend.change(None)?;
    if let Some(user) = user {
        user.resized();
    }
    Ok(())
}

fn put_in(vm: &Vm, device: Option<&str>, id: Option<&str>, node: &str) -> Result<()> {
    let (backend, user) = slot(vm, device, id)?;
    let name = device.or(id).unwrap_or("");
    let found = graph(vm)?.find(node);
    let found = found
        .ok_or_else(|| Error::generic(format!("Cannot find device='' nor node-name='{node}'")))?;
    if !backend.user().is_none_or(|user| user.removable) {
        return Err(Error::generic(format!("Device '{name}' is not removable")));
    }
    if user.as_ref().is_some_and(|user| user.tray_open() == Some(false)) {
        return Err(Error::generic(format!("Tray of device '{name}' is not open")));
    }
    if backend.node().is_some() {
        return Err(Error::generic(format!("There already is a medium in device '{name}'")));
    }
    backend.change(Some(&found))?;
    if let Some(user) = user {
        user.resized();
    }
    Ok(())
}

/// Open the tray of a drive.
#[derive(Qapi)]
pub(crate) struct BlockdevOpenTray {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
    /// Even if the guest locked it.
    force: Option<bool>,
}

impl QmpCommand for BlockdevOpenTray {
    const NAME: &'static str = "blockdev-open-tray";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let force = self.force.unwrap_or(false);
        move_tray(vm, self.device.as_deref(), self.id.as_deref(), true, force)
    }
}

/// Close the tray of a drive.
#[derive(Qapi)]
pub(crate) struct BlockdevCloseTray {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
}

impl QmpCommand for BlockdevCloseTray {
    const NAME: &'static str = "blockdev-close-tray";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        move_tray(vm, self.device.as_deref(), self.id.as_deref(), false, true)
    }
}

/// Take the medium out of an open tray.
#[derive(Qapi)]
pub(crate) struct BlockdevRemoveMedium {
    /// The device.
    id: String,
}

impl QmpCommand for BlockdevRemoveMedium {
    const NAME: &'static str = "blockdev-remove-medium";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        take_out(vm, None, Some(&self.id))
    }
}

/// Put a node into an open, empty tray.
#[derive(Qapi)]
pub(crate) struct BlockdevInsertMedium {
    /// The device.
    id: String,
    /// The node.
    node_name: String,
}

impl QmpCommand for BlockdevInsertMedium {
    const NAME: &'static str = "blockdev-insert-medium";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        put_in(vm, None, Some(&self.id), &self.node_name)
    }
}

/// Open the tray and take the medium out.
#[derive(Qapi)]
pub(crate) struct Eject {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
    /// Even if the guest locked it.
    force: Option<bool>,
}

impl QmpCommand for Eject {
    const NAME: &'static str = "eject";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let (device, id) = (self.device.as_deref(), self.id.as_deref());
        move_tray(vm, device, id, true, self.force.unwrap_or(false))?;
        take_out(vm, device, id)
    }
}

/// How a new medium is opened.
#[derive(Clone, Copy, PartialEq, Eq, Qapi)]
pub(crate) enum BlockdevChangeReadOnlyMode {
    /// As the old one.
    Retain,
    /// For reading.
    ReadOnly,
    /// For reading and writing.
    ReadWrite,
}

/// Put another image into a drive.
#[derive(Qapi)]
pub(crate) struct BlockdevChangeMedium {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
    /// The image.
    filename: String,
    /// Its format.
    format: Option<String>,
    /// Even if the guest locked the tray.
    force: Option<bool>,
    /// How it is opened.
    read_only_mode: Option<BlockdevChangeReadOnlyMode>,
}

impl QmpCommand for BlockdevChangeMedium {
    const NAME: &'static str = "blockdev-change-medium";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let (device, id) = (self.device.as_deref(), self.id.as_deref());
        let (backend, user) = slot(vm, device, id)?;
        let mode = self.read_only_mode.unwrap_or(BlockdevChangeReadOnlyMode::Retain);
        let read_only = match mode {
            BlockdevChangeReadOnlyMode::Retain => backend.is_read_only(),
            other => other == BlockdevChangeReadOnlyMode::ReadOnly,
        };
        let graph = graph(vm)?;
        let flags = block::Flags { read_only, ..block::Flags::default() };
        let node = graph.open_image(&self.filename, self.format.as_deref(), flags)?;
        move_tray(vm, device, id, true, self.force.unwrap_or(false))?;
        take_out(vm, device, id)?;
        backend.change(Some(&node))?;
        if let Some(user) = user {
            user.resized();
        }
        move_tray(vm, device, id, false, true)
    }
}

/// What `BLOCK_IO_ERROR` says.
#[derive(Qapi)]
pub(crate) struct BlockIoError {
    /// The device's path.
    qom_path: String,
    /// The drive's id.
    device: String,
    /// The node.
    node_name: Option<String>,
    /// `read` or `write`.
    operation: String,
    /// What is done about it.
    action: String,
    /// There is no space left.
    nospace: Option<bool>,
    /// For people.
    reason: String,
}

impl BlockIoError {
    pub(crate) fn of(trouble: &block::Trouble) -> BlockIoError {
        let action = match trouble.verdict {
            block::Verdict::Report => "report",
            block::Verdict::Ignore => "ignore",
            block::Verdict::Stop => "stop",
        };
        BlockIoError {
            qom_path: trouble.path.clone(),
            device: trouble.device.clone(),
            node_name: Some(trouble.node.clone()),
            operation: if trouble.write { "write" } else { "read" }.into(),
            action: action.into(),
            nospace: trouble.no_space,
            reason: trouble.reason.clone(),
        }
    }
}
