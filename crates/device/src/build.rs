//! How a device meets the machine while it is created.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use evloop::{Clock, Timer};
use memory::{AddressSpace, Dma, Region, TxAttrs};
use qapi::Value;

use crate::chars::CharPort;
use crate::class::{Device, DeviceClass};
use crate::irq::{IrqOut, IrqSink};
use crate::object::{Held, Objects};
use crate::plug::{Numbers, PlugBus};
use crate::run::RunControl;
use crate::services::{Services, Storage, StorageSource};

/// Finds character back ends by id.
pub trait CharSource: Send + Sync {
    /// A port to the named back end, or the error the user sees.
    fn port(&self, id: &str) -> qapi::Result<CharPort>;
}

/// The wall clock the guest is shown: nanoseconds since 1970-01-01 UTC.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What every device of a machine shares.
#[derive(Clone)]
pub struct World {
    /// Guest physical memory, as devices see it.
    pub memory: AddressSpace,
    /// The guest's clock.
    pub clock: Clock,
    /// The wall clock (`-rtc`).
    pub wall: WallClock,
    /// The machine's run state.
    pub run: Arc<dyn RunControl>,
    /// Character back ends.
    pub chardevs: Arc<dyn CharSource>,
    /// Objects that users made.
    pub objects: Arc<Objects>,
    /// Storage, networks and the like, by type.
    pub services: Services,
    /// Names of buses given so far.
    pub numbers: Numbers,
}

impl World {
    /// The next name of a kind, such as `virtio-mmio-bus.7`.
    #[must_use]
    pub fn numbered(&self, kind: &str) -> String {
        self.numbers.next(kind)
    }
}

/// A named group of interrupt inputs.
#[derive(Clone)]
pub struct IrqIn {
    /// Name of the group.
    pub name: String,
    /// Where levels go.
    pub sink: Arc<dyn IrqSink>,
    /// Number of inputs.
    pub count: u32,
}

/// Given to a device while it is created; records its ports.
pub struct Build<'a> {
    id: &'a str,
    world: &'a World,
    on: Option<Arc<dyn PlugBus>>,
    props: Value,
    regions: Vec<Region>,
    irq_outs: Vec<(String, Arc<IrqOut>)>,
    irq_ins: Vec<IrqIn>,
    buses: Vec<Arc<dyn PlugBus>>,
    offers: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl<'a> Build<'a> {
    /// Starts a record.
    #[must_use]
    pub fn new(id: &'a str, world: &'a World) -> Build<'a> {
        Build {
            id,
            world,
            on: None,
            props: Value::Null,
            regions: Vec::new(),
            irq_outs: Vec::new(),
            irq_ins: Vec::new(),
            buses: Vec::new(),
            offers: HashMap::new(),
        }
    }

    pub(crate) fn on(mut self, bus: Option<Arc<dyn PlugBus>>) -> Build<'a> {
        self.on = bus;
        self
    }

    /// The bus that the device goes on, if it is one of this type.
    #[must_use]
    pub fn parent_bus<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.on.as_ref()?.itself()?.downcast().ok()
    }

    pub(crate) fn note_props(&mut self, props: Value) {
        self.props = props;
    }

    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id
    }

    /// What all devices share.
    #[must_use]
    pub fn world(&self) -> &World {
        self.world
    }

    /// Offers a register bank (or memory) that the board maps; in order.
    pub fn mmio(&mut self, region: Region) {
        self.regions.push(region);
    }

    /// Makes an interrupt output named after its position (`irq0`, `irq1`, …).
    pub fn irq_out(&mut self) -> Arc<IrqOut> {
        let name = format!("irq{}", self.irq_outs.len());
        self.irq_out_named(&name)
    }

    /// Makes an interrupt output.
    pub fn irq_out_named(&mut self, name: &str) -> Arc<IrqOut> {
        let out = IrqOut::new();
        self.irq_outs.push((name.to_owned(), out.clone()));
        out
    }

    /// Offers `count` interrupt inputs.
    pub fn irq_in(&mut self, name: &str, count: u32, sink: Arc<dyn IrqSink>) {
        self.irq_ins.push(IrqIn { name: name.to_owned(), sink, count });
    }

    /// Offers a bus that devices are plugged into.
    pub fn bus(&mut self, bus: Arc<dyn PlugBus>) {
        self.buses.push(bus);
    }

    /// The name for a bus of this device: after its id if the user gave one.
    #[must_use]
    pub fn bus_name(&self, kind: &str) -> String {
        if self.id.contains('[') { self.world.numbered(kind) } else { format!("{}.0", self.id) }
    }

    /// Offers an ability by type, such as `Arc<dyn IrqController>`.
    pub fn offer<T: Any + Send + Sync>(&mut self, ability: T) {
        self.offers.insert(TypeId::of::<T>(), Arc::new(ability));
    }

    /// Access to guest memory.
    #[must_use]
    pub fn dma(&self) -> Dma {
        let on = Arc::new(AtomicBool::new(true));
        Dma::new(self.world.memory.clone(), TxAttrs::default(), on)
    }

    /// The guest's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.world.clock.clone()
    }

    /// A timer on the guest's clock; the callback runs on the main loop.
    #[must_use]
    pub fn timer(&self, f: impl Fn() + Send + Sync + 'static) -> Timer {
        self.world.clock.timer(f)
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> WallClock {
        self.world.wall.clone()
    }

    /// The machine's run state.
    #[must_use]
    pub fn run_control(&self) -> Arc<dyn RunControl> {
        self.world.run.clone()
    }

    /// A port to a character back end.
    pub fn chardev(&self, id: &str) -> qapi::Result<CharPort> {
        self.world.chardevs.port(id)
    }

    /// An ability of the object that the property `property` names; `what` names the
    /// type that has it.
    pub fn object<T: Any + Clone>(
        &self,
        property: &str,
        id: &str,
        what: &str,
    ) -> qapi::Result<Held<T>> {
        self.world.objects.hold(property, id, what)
    }

    /// What the host side offers of a type, such as the block graph.
    #[must_use]
    pub fn service<T: Any + Clone + Send + Sync>(&self) -> Option<T> {
        self.world.services.find()
    }

    /// The disk that a property names.
    pub fn storage(&self, id: &str, writable: bool) -> qapi::Result<Arc<dyn Storage>> {
        let source = self.service::<Arc<dyn StorageSource>>();
        let missing =
            || qapi::Error::generic(format!("Cannot find device='{id}' nor node-name='{id}'"));
        source.ok_or_else(missing)?.storage(id, writable)
    }

    /// Ends the record.
    #[must_use]
    pub fn finish(self, class: &'static DeviceClass, device: Arc<dyn Device>) -> Record {
        let Build { id, world: _, on: _, props, regions, irq_outs, irq_ins, buses, offers } = self;
        let id = id.to_owned();
        Record { id, class, device, props, regions, irq_outs, irq_ins, buses, parent: None, offers }
    }
}

/// A created device and its ports: what boards, monitors and firmware work from.
pub struct Record {
    /// The device's id.
    pub id: String,
    /// Its class.
    pub class: &'static DeviceClass,
    /// The device.
    pub device: Arc<dyn Device>,
    /// Its properties after defaults were filled in.
    pub props: Value,
    /// Its regions, in order.
    pub regions: Vec<Region>,
    /// Its interrupt outputs by name.
    pub irq_outs: Vec<(String, Arc<IrqOut>)>,
    /// Its interrupt inputs by name.
    pub irq_ins: Vec<IrqIn>,
    /// Buses it has.
    pub buses: Vec<Arc<dyn PlugBus>>,
    /// Name of the bus it is plugged into; `None` for what the board made.
    pub parent: Option<String>,
    offers: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Record {
    /// An ability the device offered.
    #[must_use]
    pub fn ability<T: Any + Clone>(&self) -> Option<T> {
        self.offers.get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }

    /// An interrupt output by name.
    #[must_use]
    pub fn irq_out(&self, name: &str) -> Option<&Arc<IrqOut>> {
        self.irq_outs.iter().find(|(n, _)| n == name).map(|(_, out)| out)
    }

    /// A group of interrupt inputs by name.
    #[must_use]
    pub fn irq_in(&self, name: &str) -> Option<&IrqIn> {
        self.irq_ins.iter().find(|i| i.name == name)
    }

    /// The concrete device, for tests.
    #[must_use]
    pub fn downcast<T: Device>(&self) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self.device.clone();
        any.downcast().ok()
    }
}
