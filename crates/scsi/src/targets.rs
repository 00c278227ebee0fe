//! The bus of a controller: units by their addresses.
//!
//! A unit says which target and unit number it wants, or takes the first free target. The names
//! and messages are the peer's. Channels other than 0 are refused.
//! Not here: what the driver is told (the controller's affair).
//! Source: SAM-5, 4.7; messages of QEMU 10.0.

use std::sync::Arc;

use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::Unit;

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The target.
    pub target: u32,
    /// The unit at it.
    pub lun: u32,
}

/// A unit that devices offer to the bus, with what the user wants.
#[derive(Clone)]
pub struct Plugged {
    /// The unit.
    pub unit: Arc<dyn Unit>,
    /// Channel.
    pub channel: u32,
    /// Target, if the user chose.
    pub target: Option<u32>,
    /// Unit number, if the user chose.
    pub lun: Option<u32>,
}

/// A unit with its address and its device's id.
type Entry = (Address, String, Arc<dyn Unit>);

/// Units by their addresses.
pub struct Targets {
    units: Mutex<Vec<Entry>>,
    max_target: u32,
    max_lun: u32,
}

impl Targets {
    /// An empty bus.
    #[must_use]
    pub fn new(max_target: u32, max_lun: u32) -> Targets {
        Targets { units: Mutex::default(), max_target, max_lun }
    }

    /// Adds a unit.
    ///
    /// # Errors
    /// The address cannot be, is taken, or there is none left.
    pub fn add(&self, id: &str, plugged: &Plugged) -> Result<Address> {
        let fail = |text: String| Err(Error::generic(text));
        if plugged.channel > 0 {
            return fail(format!("bad scsi channel id: {}", plugged.channel));
        }
        if let Some(target) = plugged.target.filter(|target| *target > self.max_target) {
            return fail(format!("bad scsi device id: {target}"));
        }
        if let Some(lun) = plugged.lun.filter(|lun| *lun > self.max_lun) {
            return fail(format!("bad scsi device lun: {lun}"));
        }
        let mut units = self.units.lock();
        let taken = |address: Address| units.iter().find(|(other, ..)| *other == address);
        let lun = plugged.lun.unwrap_or(0);
        let address = match (plugged.target, plugged.lun) {
            (Some(target), Some(lun)) => Some(Address { target, lun }),
            (Some(target), None) => {
                let mut all = (0..=self.max_lun).map(|lun| Address { target, lun });
                all.find(|address| taken(*address).is_none())
            }
            (None, _) => {
                let mut all = (0..=self.max_target).map(|target| Address { target, lun });
                all.find(|address| taken(*address).is_none())
            }
        };
        let Some(address) = address else { return fail("no free target".into()) };
        if let Some((_, other, _)) = taken(address) {
            return fail(format!("lun already used by '{other}'"));
        }
        units.push((address, id.to_owned(), plugged.unit.clone()));
        Ok(address)
    }

    /// Takes a unit off; where it was.
    pub fn remove(&self, unit: &Arc<dyn Unit>) -> Option<Address> {
        let mut units = self.units.lock();
        let at = units.iter().position(|(.., known)| Arc::ptr_eq(known, unit))?;
        Some(units.remove(at).0)
    }

    /// Where a unit is.
    #[must_use]
    pub fn address(&self, unit: &dyn Unit) -> Option<Address> {
        let place = std::ptr::from_ref(unit).cast::<()>();
        let units = self.units.lock();
        let found = units.iter().find(|(.., known)| Arc::as_ptr(known).cast::<()>() == place);
        found.map(|(address, ..)| *address)
    }

    /// The unit at an address; without one, any of the target answers for it (and says so).
    #[must_use]
    pub fn find(&self, address: Address) -> Option<Arc<dyn Unit>> {
        let units = self.units.lock();
        let exact = units.iter().find(|(known, ..)| *known == address);
        let any = || units.iter().find(|(known, ..)| known.target == address.target);
        exact.or_else(any).map(|(.., unit)| unit.clone())
    }

    /// Whether there is a unit exactly there.
    #[must_use]
    pub fn has(&self, address: Address) -> bool {
        self.units.lock().iter().any(|(known, ..)| *known == address)
    }

    /// Unit numbers at a target.
    #[must_use]
    pub fn luns(&self, target: u32) -> Vec<u32> {
        let units = self.units.lock();
        let mut all: Vec<u32> =
            units.iter().filter(|(a, ..)| a.target == target).map(|(a, ..)| a.lun).collect();
        all.sort_unstable();
        all
    }

    /// All units.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Unit>> {
        self.units.lock().iter().map(|(.., unit)| unit.clone()).collect()
    }
}
