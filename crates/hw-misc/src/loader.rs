//! The generic loader: bytes of a file, a value, or a program counter, at every reset.
//!
//! The device only says what is wanted ([`device::LoadRequest`]); the board reads the
//! file and puts everything into memory, because it alone knows the CPUs and which
//! images they start. Source: QEMU's manual, "Generic Loader". Not modelled: being
//! plugged in while the machine runs, as in the peer.

use std::sync::Arc;

use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, LoadRequest, Migration, Reset};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Loader>();

/// No CPU.
const NO_CPU: u32 = u32::MAX;

/// Properties of `loader`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Where bytes go, or where the CPU starts
    #[qapi(default = "0")]
    pub addr: u64,
    /// CPU that starts at the image or address
    #[qapi(name = "cpu-num", default = "4294967295")]
    pub cpu_num: u32,
    /// The value is big-endian
    #[qapi(name = "data-be", default = "off")]
    pub data_be: bool,
    /// Bytes of the value
    #[qapi(name = "data-len", default = "0")]
    pub data_len: u8,
    /// A value to be loaded
    #[qapi(default = "0")]
    pub data: u64,
    /// A file to be loaded
    pub file: Option<String>,
    /// Take the file as plain bytes whatever it is
    #[qapi(name = "force-raw", default = "off")]
    pub force_raw: bool,
}

/// The device.
pub struct Loader;

fn error<T>(text: &str) -> qapi::Result<T> {
    Err(qapi::Error::generic(text))
}

/// What the properties ask for; `None` if nothing.
fn request(props: &Props) -> qapi::Result<Option<LoadRequest>> {
    let cpu = (props.cpu_num != NO_CPU).then_some(props.cpu_num);
    let plain =
        LoadRequest { cpu, address: props.addr, raw: props.force_raw, ..LoadRequest::default() };
    if props.data != 0 || props.data_len != 0 || props.data_be {
        if props.file.is_some() {
            return error("Specifying a file is not supported when loading memory values");
        }
        if props.force_raw {
            return error("Specifying force-raw is not supported when loading memory values");
        }
        if props.data_len == 0 {
            return error("Both data and data-len must be specified");
        }
        if props.data_len > 8 {
            return error("data-len cannot be greater then 8 bytes");
        }
        let bytes = if props.data_be { props.data.to_be_bytes() } else { props.data.to_le_bytes() };
        let data = bytes.into_iter().take(props.data_len.into()).collect();
        return Ok(Some(LoadRequest { data, cpu: None, ..plain }));
    }
    if props.file.is_some() || props.force_raw {
        return Ok(Some(LoadRequest { file: props.file.clone(), ..plain }));
    }
    if props.addr != 0 {
        if cpu.is_none() {
            return error("cpu_num must be specified when setting a program counter");
        }
        return Ok(Some(plain));
    }
    Ok(None)
}

impl DeviceType for Loader {
    const NAME: &'static str = "loader";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Generic Loader";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if let Some(request) = request(&props)? {
            at.offer::<LoadRequest>(request);
        }
        Ok(Arc::new(Loader))
    }
}

impl Device for Loader {
    fn reset(&self, _: Reset) {}

    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}
