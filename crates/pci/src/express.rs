//! The PCI Express capability and its extended companions: error reporting and access control.
//!
//! Values are the peer's: every port and endpoint tells what a virtual link can, errors are never
//! reported (their registers can be written and stay empty), access control is a register that
//! nothing follows. A function level reset is carried out by who asked for it with
//! [`Function::on_reset`]. Not modelled: power states' effects, error injection, ARI.
//! Source: PCI Express Base 5.0, sections 7.5.3, 7.8.4, 7.7.7.

use crate::Function;

const CAP_EXPRESS: u8 = 0x10;
/// Length of the capability's second version without its id and link.
const BODY: usize = 0x3c - 2;

// Registers behind the capability's start (7.5.3).
const DEVICE_CONTROL: usize = 0x08;
const LINK_CAPABILITIES: usize = 0x0c;
const LINK_CONTROL: usize = 0x10;
pub(crate) const LINK_STATUS: usize = 0x12;
const SLOT_CAPABILITIES: usize = 0x14;
pub(crate) const SLOT_CONTROL: usize = 0x18;
pub(crate) const SLOT_STATUS: usize = 0x1a;
const ROOT_CONTROL: usize = 0x1c;
const ROOT_STATUS: usize = 0x20;
const DEVICE_CONTROL2: usize = 0x28;

const VERSION: u16 = 2;
const HAS_SLOT: u16 = 1 << 8;
/// Device capabilities: errors by role, extended tags, reset of one function.
const BY_ROLE: u32 = 1 << 15;
const EXTENDED_TAGS: u32 = 1 << 5;
const FLR: u32 = 1 << 28;
/// Link capabilities: L0s.
const ASPM: u32 = 1 << 10;
/// Link capabilities: the link's layer tells that it is up; bandwidth is told.
const LINK_TELLS: u32 = 3 << 20;
/// A link of one lane at 2.5 GT/s.
const SLOWEST: u16 = 0x11;
/// End-end prefixes, extended formats.
const CAPABILITIES2: u32 = 0x0030_0000;
const ARI_FORWARDING: u32 = 1 << 5;
/// Slot: button, power controller, both indicators, surprise, hot plug, interlock.
const SLOT: u32 = 0x0002_007b;

/// What a function is in the hierarchy (7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A device at the end of a link.
    Endpoint,
    /// A device of the root complex.
    Integrated,
    /// A port of the root complex.
    RootPort,
    /// The upper end of a switch.
    Upstream,
    /// A lower end of a switch.
    Downstream,
    /// A bridge to a conventional bus.
    Bridge,
}

impl Role {
    fn code(self) -> u16 {
        match self {
            Role::Endpoint => 0,
            Role::RootPort => 4,
            Role::Upstream => 5,
            Role::Downstream => 6,
            Role::Bridge => 7,
            Role::Integrated => 9,
        }
    }
}

/// The link of a port: speed (1 is 2.5 GT/s) and lanes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Code of the speed.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
}

/// What the capability of a function says.
#[derive(Clone, Copy, Debug)]
pub struct Express {
    /// What it is.
    pub role: Role,
    /// Where the capability is; `None`: behind the others.
    pub at: Option<u8>,
    /// Number of the port.
    pub port: u8,
    /// What the link could do, if that is told.
    pub link: Option<Link>,
    /// It can be reset alone.
    pub flr: bool,
    /// Errors can be told.
    pub errors: bool,
    /// The link's clock and synchronization can be chosen.
    pub link_control: bool,
}

/// The slot of a port.
#[derive(Clone, Copy, Debug)]
pub struct SlotTraits {
    /// Number.
    pub number: u16,
    /// Devices may come and go.
    pub hotplug: bool,
    /// It says that they may.
    pub told: bool,
    /// It switches power.
    pub power: bool,
}

fn low(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

fn link_capabilities(e: &Express) -> u32 {
    let port = u32::from(e.port) << 24;
    match (e.role, e.link) {
        (Role::Downstream, _) => port | ASPM,
        (_, None) => port | ASPM | u32::from(SLOWEST),
        (_, Some(link)) => {
            port | ASPM | LINK_TELLS | u32::from(link.speed) | u32::from(link.width) << 4
        }
    }
}

impl Function {
    /// Adds the capability; the function's space is as long as express ones are.
    pub fn add_express(&self, e: &Express, slot: Option<&SlotTraits>) -> usize {
        let mut body = vec![0; BODY];
        let mut set = |at: usize, value: u32| {
            for (to, from) in body.iter_mut().skip(at - 2).zip(value.to_le_bytes()) {
                *to = from;
            }
        };
        let flags = VERSION | e.role.code() << 4 | if slot.is_some() { HAS_SLOT } else { 0 };
        set(2, flags.into());
        set(4, BY_ROLE | EXTENDED_TAGS | if e.flr { FLR } else { 0 });
        set(LINK_CAPABILITIES, link_capabilities(e));
        let now = e.link.map_or(SLOWEST, |l| u16::from(l.speed) | u16::from(l.width) << 4);
        set(LINK_CONTROL, u32::from(now) << 16);
        if let Some(slot) = slot {
            let mut traits = SLOT;
            if !(slot.hotplug && slot.told) {
                traits &= !0x60;
            }
            if !slot.power {
                traits &= !2;
            }
            set(SLOT_CAPABILITIES, traits | u32::from(slot.number) << 19);
            set(SLOT_CONTROL, crate::slot::at_first(slot.power).into());
        }
        let ports = matches!(e.role, Role::RootPort | Role::Downstream | Role::Bridge);
        set(0x24, CAPABILITIES2 | if ports { ARI_FORWARDING } else { 0 });
        if let Some(link) = e.link {
            set(0x2c, (1 << (link.speed + 1)) - 2);
            set(0x30, link.speed.into());
        }
        self.change_config(|c| {
            c.widen();
            let at = c.capability(CAP_EXPRESS, e.at, &body);
            if e.errors {
                c.allow(at + DEVICE_CONTROL, &[0x0f, 0]);
                c.allow_clear(at + DEVICE_CONTROL + 2, &[0x0f, 0]);
            }
            if e.link_control {
                c.allow(at + LINK_CONTROL, &[0xc0, 0]);
            }
            if slot.is_some() {
                c.allow(at + SLOT_CONTROL, &[0xf9, 0x07]);
                c.allow_clear(at + SLOT_STATUS, &[0x19, 0]);
            }
            if e.role == Role::RootPort {
                c.allow(at + ROOT_CONTROL, &[7, 0]);
                c.allow_clear(at + ROOT_STATUS + 2, &[1]);
            }
            c.allow(at + DEVICE_CONTROL2, &[if ports { 0x20 } else { 0 }, 0x80]);
            at
        })
    }

    /// Adds the capability in its first version (PCI Express Base 1.1, 7.8), which ends with the
    /// link's registers; the function's space is as long as express ones are.
    pub fn add_express_v1(&self, e: &Express) -> usize {
        const FIRST_BODY: usize = 0x14 - 2;
        const FIRST_VERSION: u32 = 1;
        let mut body = vec![0; FIRST_BODY];
        let words = [
            (2, FIRST_VERSION | u32::from(e.role.code()) << 4),
            (4, BY_ROLE | EXTENDED_TAGS | if e.flr { FLR } else { 0 }),
            (LINK_CAPABILITIES, link_capabilities(e)),
            (LINK_CONTROL, u32::from(SLOWEST) << 16),
        ];
        for (at, word) in words {
            for (to, from) in body.iter_mut().skip(at - 2).zip(word.to_le_bytes()) {
                *to = from;
            }
        }
        self.change_config(|c| {
            c.widen();
            c.capability(CAP_EXPRESS, e.at, &body)
        })
    }

    /// Adds a serial number (7.9.3), behind the other extended capabilities.
    pub fn add_serial_number(&self, at: usize, number: [u8; 8]) {
        self.change_config(|c| _ = c.extended(at, 3, 1, &number));
    }

    /// Adds advanced error reporting at the start of the extended space.
    pub fn add_errors(&self, root: bool, tells_many: bool) {
        let mut body = vec![0; 0x44];
        let mut set = |at: usize, value: u32| {
            for (to, from) in body.iter_mut().skip(at - 4).zip(value.to_le_bytes()) {
                *to = from;
            }
        };
        set(0x08, 0x0240_0000);
        set(0x0c, 0x0046_2030);
        set(0x14, 0x0000_e000);
        set(0x18, if tells_many { 0x2a0 } else { 0xa0 });
        self.change_config(|c| {
            let at = c.extended(0x100, 1, 2, &body);
            let uncorrectable = 0x03ff_f030u32.to_le_bytes();
            c.allow_clear(at + 4, &uncorrectable);
            c.allow(at + 8, &uncorrectable);
            c.allow(at + 0xc, &uncorrectable);
            c.allow_clear(at + 0x10, &[0xc1, 0xf1]);
            c.allow(at + 0x14, &[0xc1, 0xf1]);
            c.allow(at + 0x18, &[0x40, if tells_many { 5 } else { 1 }]);
            if root {
                c.allow(at + 0x2c, &[7]);
                c.allow_clear(at + 0x30, &[0x7f]);
            }
        });
    }

    /// Adds access control services (7.7.7) as downstream ports have them.
    pub fn add_access_control(&self, at: usize) {
        const ALL: u8 = 0x5f;
        self.change_config(|c| {
            let at = c.extended(at, 0xd, 1, &[ALL, 0, 0, 0]);
            c.allow(at + 6, &[ALL]);
        });
    }

    /// What the other end of a port's link says of it: speed and width.
    pub(crate) fn link_now(&self) -> Option<u16> {
        let at = self.express_at()?;
        Some(low(self.config32(at + LINK_CONTROL) >> 16) & 0x3ff)
    }

    /// What its own link says while nobody is at its other end.
    pub(crate) fn own_link(&self) -> u16 {
        let at = self.express_at().unwrap_or(0);
        self.change_config(|c| c.first16(at + LINK_STATUS))
    }

    /// Where the express capability is.
    #[must_use]
    pub fn express_at(&self) -> Option<usize> {
        self.capability(CAP_EXPRESS, |_| true)
    }
}
