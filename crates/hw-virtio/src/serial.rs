//! Virtio console device (virtio 1.3, section 5.3) with its ports.
//!
//! The device has a bus; `virtconsole` and `virtserialport` plug into it and tie a
//! port to a character back end. Not modelled: console sizes (no back end tells
//! one). What a back end does not take at once is dropped, as on a real line.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Build, Bus, Device, DeviceClass, DeviceType, Migration, PlugBus, Record, Reset, Unplug,
};
use parking_lot::Mutex;
use virtio::{Common, Port, Queue, VirtioDevice, VirtioId};

use crate::serial_port::SerialPort;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioSerial>();

/// Properties of `virtio-serial-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Most ports
    #[qapi(name = "max_ports", default = 31)]
    pub max_ports: u32,
    /// Offer emergency writes through the configuration space
    #[qapi(name = "emergency-write", default = true)]
    pub emergency_write: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

// 5.3.3: features.
const MULTIPORT: u64 = 1 << 1;
const EMERG_WRITE: u64 = 1 << 2;
/// Most ports a device can have, as the peer limits it.
const PORT_LIMIT: u32 = 511;

// 5.3.6.2: control messages.
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const DEVICE_REMOVE: u16 = 2;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

const CONTROL_IN: u16 = 2;
const CONTROL_OUT: u16 = 3;
const QUEUE_SIZE: u16 = 128;
const CONTROL_SIZE: u16 = 32;
/// Control messages kept for a driver that gives no buffers.
const MAX_PENDING: usize = 1024;
/// Most bytes taken from one chain.
const MAX_CHAIN: usize = 1 << 20;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-serial", version = 1)]
struct State {
    features: u64,
    /// Ports the guest has open.
    #[vmstate(max = 512)]
    open: Vec<u32>,
    #[vmstate(max = 1024)]
    pending: VecDeque<Vec<u8>>,
}

/// The device.
pub struct VirtioSerial {
    props: Props,
    bus: String,
    port: OnceLock<Port>,
    ports: Mutex<Vec<(u32, Arc<SerialPort>)>>,
    state: Mutex<State>,
    this: Weak<VirtioSerial>,
}

impl DeviceType for VirtioSerial {
    const NAME: &'static str = "virtio-serial-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio console and serial ports";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.max_ports == 0 {
            return Err(qapi::Error::generic("Maximum number of serial ports not specified"));
        }
        if props.max_ports > PORT_LIMIT {
            return Err(qapi::Error::generic(format!("maximum ports supported: {PORT_LIMIT}")));
        }
        let bus = at.bus_name("virtio-serial-bus");
        let device = Arc::new_cyclic(|this| VirtioSerial {
            props,
            bus,
            port: OnceLock::new(),
            ports: Mutex::default(),
            state: Mutex::default(),
            this: this.clone(),
        });
        at.offer::<virtio::Offer>(device.clone());
        at.bus(device.clone());
        Ok(device)
    }
}

impl PlugBus for VirtioSerial {
    fn name(&self) -> &str {
        &self.bus
    }

    fn kind(&self) -> Bus {
        Bus::VirtioSerial
    }

    fn plug(&self, record: &Record) -> qapi::Result<()> {
        let port: Option<Arc<SerialPort>> = record.ability();
        let port = port.ok_or_else(|| qapi::Error::generic("this is no virtio serial port"))?;
        let number = {
            let mut ports = self.ports.lock();
            let taken = |n: u32| ports.iter().any(|(number, _)| *number == n);
            // Port 0 is for a console (5.3.2).
            let first = u32::from(!port.is_console());
            let number = match port.wanted() {
                Some(n) if taken(n) => {
                    let text = format!("virtio-serial-bus: A port already exists at id {n}");
                    return Err(qapi::Error::generic(text));
                }
                Some(0) if !port.is_console() => {
                    let text = "Port number 0 on virtio-serial devices reserved for virtconsole \
                                devices for backward compatibility.";
                    return Err(qapi::Error::generic(text));
                }
                Some(n) => Some(n),
                None => (first..self.props.max_ports).find(|n| !taken(*n)),
            };
            let number = number.filter(|n| *n < self.props.max_ports).ok_or_else(|| {
                qapi::Error::generic(format!(
                    "virtio-serial-bus: Out-of-range port id specified, max. allowed: {}",
                    self.props.max_ports - 1
                ))
            })?;
            ports.push((number, port.clone()));
            number
        };
        port.connect(self.this.clone(), number);
        self.send_control(number, DEVICE_ADD, 1, &[]);
        Ok(())
    }

    fn is_hotpluggable(&self) -> bool {
        true
    }

    fn unplug(&self, record: &Record) -> qapi::Result<Unplug> {
        let port: Option<Arc<SerialPort>> = record.ability();
        let port = port.ok_or_else(|| qapi::Error::generic("this is no virtio serial port"))?;
        let number = {
            let mut ports = self.ports.lock();
            let at = ports.iter().position(|(_, known)| Arc::ptr_eq(known, &port));
            let at = at.ok_or_else(|| qapi::Error::generic("the port is not plugged in"))?;
            ports.remove(at).0
        };
        port.disconnect();
        self.state.lock().open.retain(|open| *open != number);
        self.send_control(number, DEVICE_REMOVE, 1, &[]);
        Ok(Unplug::Done)
    }
}

/// Index of a port's receive queue; the transmit queue follows it.
fn receive_queue(number: u32) -> usize {
    let number = number as usize;
    if number == 0 { 0 } else { 2 * number + 2 }
}

impl VirtioSerial {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    fn is_multiport(&self) -> bool {
        self.state.lock().features & MULTIPORT != 0
    }

    fn serial_port(&self, number: u32) -> Option<Arc<SerialPort>> {
        self.ports.lock().iter().find(|(n, _)| *n == number).map(|(_, port)| port.clone())
    }

    fn queue(&self, index: usize) -> Option<&Arc<Queue>> {
        self.port.get()?.queue(index)
    }

    /// Bytes that the guest can take at a port now.
    pub(crate) fn room(&self, number: u32) -> usize {
        let open = {
            let state = self.state.lock();
            state.features & MULTIPORT == 0 || state.open.contains(&number)
        };
        let queue = self.queue(receive_queue(number)).filter(|_| open);
        queue.and_then(|q| q.next_room()).unwrap_or(0)
    }

    /// Gives bytes to the guest.
    pub(crate) fn receive(&self, number: u32, data: &[u8]) {
        let Some(queue) = self.queue(receive_queue(number)) else { return };
        let mut rest = data;
        while !rest.is_empty() {
            let Some(chain) = queue.pop() else { break };
            let n = chain.writable_len().min(rest.len());
            let (now, later) = rest.split_at(n);
            let written = chain.write(0, now);
            queue.push(chain, written);
            rest = later;
        }
        queue.signal();
    }

    /// The back end of a port was opened or closed.
    pub(crate) fn host_open(&self, number: u32, open: bool) {
        self.send_control(number, PORT_OPEN, open.into(), &[]);
    }

    fn send_control(&self, number: u32, event: u16, value: u16, extra: &[u8]) {
        let mut message = number.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(extra);
        {
            let mut state = self.state.lock();
            if state.features & MULTIPORT == 0 || state.pending.len() >= MAX_PENDING {
                return;
            }
            state.pending.push_back(message);
        }
        self.flush_control();
    }

    fn flush_control(&self) {
        let Some(queue) = self.queue(CONTROL_IN.into()) else { return };
        let mut state = self.state.lock();
        while let Some(message) = state.pending.front() {
            let Some(chain) = queue.pop() else { break };
            let written = chain.write(0, message);
            queue.push(chain, written);
            state.pending.pop_front();
        }
        drop(state);
        queue.signal();
    }

    fn take_control(&self) {
        let Some(queue) = self.queue(CONTROL_OUT.into()) else { return };
        while let Some(chain) = queue.pop() {
            let message = chain.read_up_to(8);
            queue.push(chain, 0);
            if let Some([a, b, c, d, e, f, g, h]) = message.first_chunk::<8>().copied() {
                let number = u32::from_le_bytes([a, b, c, d]);
                self.control(number, u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
            }
        }
        queue.signal();
    }

    fn control(&self, number: u32, event: u16, value: u16) {
        if event == DEVICE_READY {
            if value == 1 {
                let numbers: Vec<u32> = self.ports.lock().iter().map(|(n, _)| *n).collect();
                for number in numbers {
                    self.send_control(number, DEVICE_ADD, 1, &[]);
                }
            }
            return;
        }
        let Some(port) = self.serial_port(number) else {
            trace::guest_error!("virtio-serial: message {event} for port {number}");
            return;
        };
        match event {
            PORT_READY if value == 1 => {
                if port.is_console() {
                    self.send_control(number, CONSOLE_PORT, 1, &[]);
                }
                if let Some(name) = port.name() {
                    self.send_control(number, PORT_NAME, 1, name.as_bytes());
                }
                if port.is_host_open() {
                    self.send_control(number, PORT_OPEN, 1, &[]);
                }
            }
            PORT_OPEN => {
                {
                    let mut state = self.state.lock();
                    state.open.retain(|n| *n != number);
                    if value != 0 {
                        state.open.push(number);
                    }
                }
                port.accept_input();
            }
            _ => {}
        }
    }

    fn transmit(&self, number: u32) {
        let Some(queue) = self.queue(receive_queue(number) + 1) else { return };
        let port = self.serial_port(number);
        while let Some(chain) = queue.pop() {
            let data = chain.read_up_to(MAX_CHAIN);
            if let Some(port) = &port {
                port.send(&data);
            }
            queue.push(chain, 0);
        }
        queue.signal();
    }
}

impl VirtioDevice for VirtioSerial {
    fn id(&self) -> VirtioId {
        VirtioId(3)
    }

    fn features(&self) -> u64 {
        let multi = if self.props.max_ports > 1 { MULTIPORT } else { 0 };
        let emergency = if self.props.emergency_write { EMERG_WRITE } else { 0 };
        self.props.common.features() | multi | emergency
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2];
        sizes.extend([CONTROL_SIZE; 2]);
        for _ in 1..self.props.max_ports {
            sizes.extend([QUEUE_SIZE; 2]);
        }
        sizes
    }

    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 4];
        config.extend(self.props.max_ports.to_le_bytes());
        if self.props.emergency_write {
            config.extend([0; 4]);
        }
        config
    }

    fn config_write(&self, at: usize, data: &[u8]) {
        if at == 8
            && let Some(byte) = data.first()
        {
            let console = self.ports.lock().iter().find(|(_, p)| p.is_console()).cloned();
            if let Some((_, port)) = console {
                port.send(&[*byte]);
            }
        }
    }

    fn start(&self, negotiated: u64) {
        self.state.lock().features = negotiated;
    }

    fn stop(&self) {
        *self.state.lock() = State::default();
    }

    fn notify(&self, index: u16) {
        match index {
            0 => {
                if let Some(port) = self.serial_port(0) {
                    port.accept_input();
                }
            }
            1 => self.transmit(0),
            CONTROL_IN => self.flush_control(),
            CONTROL_OUT => {
                if self.is_multiport() {
                    self.take_control();
                }
            }
            _ => {
                let number = u32::from(index / 2 - 1);
                if index % 2 == 1 {
                    self.transmit(number);
                } else if let Some(port) = self.serial_port(number) {
                    port.accept_input();
                }
            }
        }
    }
}

impl Device for VirtioSerial {
    fn reset(&self, _: Reset) {
        *self.state.lock() = State::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }

    fn settle(&self) {
        let ports: Vec<_> = self.ports.lock().iter().map(|(_, p)| p.clone()).collect();
        for port in ports {
            port.accept_input();
        }
    }
}
