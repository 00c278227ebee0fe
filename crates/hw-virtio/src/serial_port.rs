//! The ports of a virtio serial device: `virtconsole` and `virtserialport`.
//!
//! A port ties a port number to a character back end. A console is always open on
//! the host's side; another port is open while somebody is at its back end. Not
//! modelled: console sizes, which no back end tells. Their state is the device's.
//! Source: virtio 1.3, section 5.3; QEMU 10.0's behaviour for numbers and opening.

use std::sync::{Arc, OnceLock, Weak};

use derive::Qapi;
use device::{
    Build, Bus, CharEvent, CharPort, CharReceiver, Device, DeviceClass, DeviceType, Migration,
    Reset,
};

use crate::serial::VirtioSerial;

/// The class of consoles.
pub static CONSOLE: DeviceClass = DeviceClass::of::<VirtConsole>();
/// The class of plain ports.
pub static PORT: DeviceClass = DeviceClass::of::<VirtSerialPort>();

/// Properties of both kinds of ports.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// ID of a chardev to use as a backend
    pub chardev: Option<String>,
    /// Number of the port; by default the first free one
    #[qapi(default = 4294967295)]
    pub nr: u32,
    /// Name the guest is told
    pub name: Option<String>,
}

/// What both kinds are.
pub struct SerialPort {
    console: bool,
    props: Props,
    chars: CharPort,
    place: OnceLock<(Weak<VirtioSerial>, u32)>,
}

impl SerialPort {
    fn create(props: Props, console: bool, at: &mut Build<'_>) -> qapi::Result<Arc<SerialPort>> {
        let chars = match &props.chardev {
            Some(id) => at.chardev(id)?,
            None => CharPort::unconnected(),
        };
        let port = Arc::new(SerialPort { console, props, chars, place: OnceLock::new() });
        let receiver: Weak<SerialPort> = Arc::downgrade(&port);
        port.chars.on_receive(receiver);
        at.offer::<Arc<SerialPort>>(port.clone());
        Ok(port)
    }

    pub(crate) fn connect(&self, serial: Weak<VirtioSerial>, number: u32) {
        _ = self.place.set((serial, number));
    }

    /// The port is off its bus: its back end has no front any more.
    pub(crate) fn disconnect(&self) {
        let nobody: Weak<SerialPort> = Weak::new();
        self.chars.on_receive(nobody);
    }

    pub(crate) fn is_console(&self) -> bool {
        self.console
    }

    /// The number the user asked for.
    pub(crate) fn wanted(&self) -> Option<u32> {
        Some(self.props.nr).filter(|nr| *nr != u32::MAX)
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.props.name.as_deref()
    }

    pub(crate) fn is_host_open(&self) -> bool {
        self.console || (self.chars.is_connected() && self.chars.is_open())
    }

    pub(crate) fn send(&self, data: &[u8]) {
        self.chars.send(data);
    }

    pub(crate) fn accept_input(&self) {
        self.chars.accept_input();
    }

    fn serial(&self) -> Option<(Arc<VirtioSerial>, u32)> {
        let (serial, number) = self.place.get()?;
        Some((serial.upgrade()?, *number))
    }
}

impl CharReceiver for SerialPort {
    fn room(&self) -> usize {
        self.serial().map_or(0, |(serial, number)| serial.room(number))
    }

    fn receive(&self, data: &[u8]) {
        if let Some((serial, number)) = self.serial() {
            serial.receive(number, data);
        }
    }

    fn event(&self, event: CharEvent) {
        let open = match event {
            CharEvent::Opened => true,
            CharEvent::Closed => false,
            _ => return,
        };
        if let Some((serial, number)) = self.serial()
            && !self.console
        {
            serial.host_open(number, open);
        }
    }
}

macro_rules! kind {
    ($type:ident, $name:literal, $summary:literal, $console:literal) => {
        /// The device.
        pub struct $type {
            _port: Arc<SerialPort>,
        }

        impl DeviceType for $type {
            const NAME: &'static str = $name;
            const BUS: Bus = Bus::VirtioSerial;
            const SUMMARY: &'static str = $summary;
            type Props = Props;

            fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
                Ok(Arc::new($type { _port: SerialPort::create(props, $console, at)? }))
            }
        }

        impl Device for $type {
            fn reset(&self, _: Reset) {}
            fn migration(&self) -> Migration<'_> {
                Migration::Stateless
            }
        }
    };
}
kind!(VirtConsole, "virtconsole", "console port of a virtio serial device", true);
kind!(VirtSerialPort, "virtserialport", "port of a virtio serial device", false);
