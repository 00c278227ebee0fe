//! Virtio devices on PCI: per device one class as the user likes it, one that shows both
//! interfaces (`-transitional`), and one that shows the modern one (`-non-transitional`).
//!
//! Each joins the properties of the device with those of the transport, makes both
//! and passes reset, pausing and saved state on. Nothing of a device's behaviour is here, and
//! nothing of the transport's. A further device is one line at the end.
//! Source: virtio 1.3, section 4.1; names and defaults of QEMU 10.0.

use std::sync::Arc;

use derive::Qapi;
use device::{BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use virtio::pci::{Modes, Setup, Transport, VirtioPci};

use crate::{balloon, blk, net, rng, scsi, serial};

/// A virtio device behind a PCI transport.
struct OnPci<D> {
    device: Arc<D>,
    transport: Arc<VirtioPci>,
}

fn refuse_backend(name: &str, given: bool) -> qapi::Result<()> {
    if given {
        let text = format!("Property '{name}.virtio-backend' is not writable");
        return Err(qapi::Error::generic(text));
    }
    Ok(())
}

macro_rules! class {
    ($type:ident, $props:ident, $name:literal, $summary:literal, $device:ty, $modes:expr,
     $class:expr) => {
        /// The device.
        pub struct $type(OnPci<$device>);

        impl DeviceType for $type {
            const NAME: &'static str = $name;
            const BUS: Bus = Bus::Pci;
            const SUMMARY: &'static str = $summary;
            type Props = $props;

            fn create(props: $props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
                refuse_backend($name, props.backend.is_some())?;
                let modes: fn(&$props) -> Modes = $modes;
                let class: fn(&$props) -> (u8, u8, u8) = $class;
                let setup = Setup {
                    name: $name,
                    class: class(&props),
                    vectors: props.vectors,
                    modes: modes(&props),
                    pci: props.pci,
                    transport: props.transport,
                };
                let device = <$device as DeviceType>::create(props.device, at)?;
                let transport = VirtioPci::new(device.clone(), &setup, at)?;
                Ok(Arc::new($type(OnPci { device, transport })))
            }
        }

        impl Device for $type {
            fn reset(&self, kind: Reset) {
                self.0.transport.reset();
                self.0.device.reset(kind);
            }

            fn migration(&self) -> Migration<'_> {
                self.0.transport.migration(self.0.device.state())
            }

            fn settle(&self) {
                self.0.transport.settle();
                self.0.device.settle();
            }

            fn pause(&self) -> BoxFuture<'_, ()> {
                Box::pin(self.0.transport.pause())
            }

            fn resume(&self) {
                self.0.transport.resume();
            }
        }
    };
}

macro_rules! props {
    ($name:ident, $doc:tt, $device:ty, $backend:ident, $vectors:tt,
     { $($modes:tt)* } { $($extra:tt)* }) => {
        #[doc = $doc]
        #[derive(Clone, Debug, Qapi)]
        #[expect(missing_docs, reason = "flattened members are documented as types")]
        pub struct $name {
            #[qapi(flatten)]
            pub pci: ::pci::Common,
            #[qapi(flatten)]
            pub transport: Transport,
            $($modes)*
            /// Number of MSI-X vectors; 4294967295 for one more than there are queues
            #[qapi(default = $vectors)]
            pub vectors: u32,
            /// The device behind the transport; cannot be set
            #[qapi(name = "virtio-backend")]
            pub backend: Option<$backend>,
            $($extra)*
            #[qapi(flatten)]
            pub device: $device,
        }
    };
}

/// The three classes of one device.
macro_rules! device {
    ($device:ty, $props:ty, $backend:ident = $child:literal, vectors = $vectors:tt,
     class = $class:expr, members = $extra:tt,
     $choice:ident = $base:ident $base_class:ident $base_name:literal,
     $fixed:ident = $trans:ident $trans_class:ident $trans_name:literal,
     $modern:ident $modern_class:ident $modern_name:literal, $summary:literal) => {
        ::pci::named_property!(
            /// The type of `virtio-backend`.
            $backend, $child
        );
        props!($choice, "Properties, with the choice of interfaces.", $props, $backend,
            $vectors, { #[qapi(flatten)] pub modes: Modes, } $extra);
        props!($fixed, "Properties of the forms that say it by their names.", $props, $backend,
            $vectors, {} $extra);
        class!($base, $choice, $base_name, $summary, $device, |p| p.modes, $class);
        class!($trans, $fixed, $trans_name, $summary, $device, |_| Modes::TRANSITIONAL, $class);
        class!($modern, $fixed, $modern_name, $summary, $device, |_| Modes::MODERN, $class);
        /// As the user likes it.
        pub static $base_class: DeviceClass = DeviceClass::of::<$base>();
        /// Both interfaces.
        pub static $trans_class: DeviceClass = DeviceClass::of::<$trans>();
        /// The modern interface.
        pub static $modern_class: DeviceClass = DeviceClass::of::<$modern>();
    };
}

const OTHER: (u8, u8, u8) = (0, 0xff, 0);

/// The peer takes three classes for consoles and puts the first in place of all others.
fn console_class(class: u32) -> (u8, u8, u8) {
    match class {
        0x0380 => (3, 0x80, 0),
        0x00ff => OTHER,
        _ => (7, 0x80, 0),
    }
}

fn disk_class(class: u32) -> (u8, u8, u8) {
    let [.., base, sub] = class.to_be_bytes();
    if class == 0 { (1, 0, 0) } else { (base, sub, 0) }
}

device!(
    rng::VirtioRng, rng::Props, RngBackend = "child<virtio-rng-device>", vectors = 4294967295,
    class = |_| OTHER, members = {},
    RngProps = RngPci RNG "virtio-rng-pci",
    RngFixedProps = RngTransitional RNG_TRANSITIONAL "virtio-rng-pci-transitional",
    RngModern RNG_MODERN "virtio-rng-pci-non-transitional", "virtio entropy source on PCI"
);

device!(
    balloon::VirtioBalloon, balloon::Props, BalloonBackend = "child<virtio-balloon-device>",
    vectors = 4294967295, class = |_| OTHER, members = {},
    BalloonProps = BalloonPci BALLOON "virtio-balloon-pci",
    BalloonFixedProps = BalloonTransitional BALLOON_TRANSITIONAL "virtio-balloon-pci-transitional",
    BalloonModern BALLOON_MODERN "virtio-balloon-pci-non-transitional",
    "virtio memory balloon on PCI"
);

device!(
    serial::VirtioSerial, serial::Props, SerialBackend = "child<virtio-serial-device>",
    vectors = 2, class = |p| console_class(p.class),
    members = {
        /// PCI class: 0x0780 (also for 0), 0x0380 or 0x00ff
        #[qapi(default = 0)]
        pub class: u32,
    },
    SerialProps = SerialPci SERIAL "virtio-serial-pci",
    SerialFixedProps = SerialTransitional SERIAL_TRANSITIONAL "virtio-serial-pci-transitional",
    SerialModern SERIAL_MODERN "virtio-serial-pci-non-transitional",
    "virtio console and serial ports on PCI"
);

/// 4.1.2: a network controller for Ethernet.
const ETHERNET: (u8, u8, u8) = (2, 0, 0);

device!(
    net::VirtioNet, net::Props, NetBackend = "child<virtio-net-device>", vectors = 4294967295,
    class = |_| ETHERNET, members = {},
    NetProps = NetPci NET "virtio-net-pci",
    NetFixedProps = NetTransitional NET_TRANSITIONAL "virtio-net-pci-transitional",
    NetModern NET_MODERN "virtio-net-pci-non-transitional", "virtio network card on PCI"
);

device!(
    blk::VirtioBlk, blk::Props, BlkBackend = "child<virtio-blk-device>", vectors = 4294967295,
    class = |p| disk_class(p.class),
    members = {
        /// PCI class: 0x0100 (also for 0) or another one
        #[qapi(default = 0)]
        pub class: u32,
    },
    BlkProps = BlkPci BLK "virtio-blk-pci",
    BlkFixedProps = BlkTransitional BLK_TRANSITIONAL "virtio-blk-pci-transitional",
    BlkModern BLK_MODERN "virtio-blk-pci-non-transitional", "virtio disk on PCI"
);

device!(
    scsi::VirtioScsi, scsi::Props, ScsiBackend = "child<virtio-scsi-device>",
    vectors = 4294967295, class = |_| (1, 0, 0), members = {},
    ScsiProps = ScsiPci SCSI "virtio-scsi-pci",
    ScsiFixedProps = ScsiTransitional SCSI_TRANSITIONAL "virtio-scsi-pci-transitional",
    ScsiModern SCSI_MODERN "virtio-scsi-pci-non-transitional", "virtio SCSI host on PCI"
);
