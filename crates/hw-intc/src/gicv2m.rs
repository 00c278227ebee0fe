//! GICv2m: an MSI frame for a GICv2 (Arm Server Base System Architecture, appendix E).
//!
//! A write of an interrupt number pulses the shared interrupt of that number, if
//! it is the frame's. Not modelled: the secure alias. The frame has no state.

use std::sync::Arc;

use derive::Qapi;
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, Migration,
    Mmio, Region, Reset,
};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Gicv2m>();

/// Properties of `arm-gicv2m`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// First shared interrupt
    #[qapi(name = "base-spi", default = 0)]
    pub base_spi: u32,
    /// Number of shared interrupts
    #[qapi(name = "num-spi", default = 64)]
    pub num_spi: u32,
}

const MSI_TYPER: u64 = 0x008;
const MSI_SETSPI_NS: u64 = 0x040;
const MSI_IIDR: u64 = 0xfcc;
/// As the peer shows it.
const IIDR: u32 = 0x0510_0000;
/// Most shared interrupts of a GICv2.
const MAX_SPI: u32 = 988;

/// The device.
pub struct Gicv2m {
    first: u32,
    outs: Vec<Arc<IrqOut>>,
}

impl DeviceType for Gicv2m {
    const NAME: &'static str = "arm-gicv2m";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "MSI frame of a GICv2";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.base_spi.saturating_add(props.num_spi) > MAX_SPI {
            return Err(qapi::Error::generic(format!(
                "requested base SPI {} with {} SPIs exceeds max. number of SPIs {MAX_SPI}",
                props.base_spi, props.num_spi
            )));
        }
        let outs = (0..props.num_spi).map(|_| at.irq_out()).collect();
        let device = Arc::new(Gicv2m { first: props.base_spi + 32, outs });
        at.mmio(Region::mmio("gicv2m", 0x1000, AccessRules::WORD32, &device));
        Ok(device)
    }
}

impl Mmio for Gicv2m {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let count = u32::try_from(self.outs.len()).unwrap_or(0);
        Ok(match at.offset {
            MSI_TYPER => self.first << 16 | count,
            MSI_IIDR => IIDR,
            _ => 0,
        }
        .into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        if at.offset == MSI_SETSPI_NS {
            let number = (value & 0x3ff).checked_sub(self.first.into());
            let out = number.and_then(|n| self.outs.get(usize::try_from(n).ok()?));
            match out {
                Some(out) => out.pulse(),
                None => trace::guest_error!("gicv2m: {value:#x} is none of its interrupts"),
            }
        }
        Ok(())
    }
}

impl Device for Gicv2m {
    fn reset(&self, _: Reset) {}

    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}
