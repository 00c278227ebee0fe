//! Properties that every PCI device has, with the peer's names and defaults.
//!
//! What tunes express capabilities for old machines of the peer (`x-pcie-*`) is taken and, but for
//! what a device's own transport honours, kept: capabilities look as they do at its defaults.

use derive::Qapi;
use qapi::{Error, Kind, Result, Source, TypeInfo, Value};

/// Properties that every PCI device has.
#[derive(Clone, Debug, Qapi)]
pub struct Common {
    /// Number that ACPI tables give the device; there are none here
    #[qapi(name = "acpi-index", default = 0)]
    pub acpi_index: u32,
    /// Slot and optional function number, example: 06.0 or 06
    #[qapi(default = "-1")]
    pub addr: Addr,
    /// Number of the bus; cannot be set
    pub busnr: Option<BusNumber>,
    /// For network devices only
    #[qapi(name = "failover_pair_id")]
    pub failover_pair_id: Option<String>,
    /// Whether the device has other functions
    #[qapi(default = false)]
    pub multifunction: bool,
    /// Whether the expansion ROM is shown (0: it is not)
    #[qapi(default = -1)]
    pub rombar: i32,
    /// File of the expansion ROM
    pub romfile: Option<String>,
    /// Size of the expansion ROM; 4294967295 for the file's
    #[qapi(default = 4294967295)]
    pub romsize: u32,
    /// Maximum buffer size allocated for bounce buffers used for mapped access to indirect DMA memory
    #[qapi(name = "x-max-bounce-buffer-size", default = 4096)]
    pub bounce: qapi::Size,
    /// Express devices only: next function number in ARI is 1
    #[qapi(name = "x-pcie-ari-nextfn-1", default = false)]
    pub ari: bool,
    /// Express devices only: uncorrectable errors can be masked
    #[qapi(name = "x-pcie-err-unc-mask", default = true)]
    pub err_unc_mask: bool,
    /// Express devices only: extended tags
    #[qapi(name = "x-pcie-ext-tag", default = true)]
    pub ext_tag: bool,
    /// Express devices only: start of the list of extended capabilities
    #[qapi(name = "x-pcie-extcap-init", default = true)]
    pub extcap: bool,
    /// Express devices only: the link says that it is up
    #[qapi(name = "x-pcie-lnksta-dllla", default = true)]
    pub dllla: bool,
}

impl Common {
    /// The properties of a function that the board makes.
    #[must_use]
    pub fn of_board() -> Common {
        Common {
            acpi_index: 0,
            addr: Addr(None),
            busnr: None,
            failover_pair_id: None,
            multifunction: false,
            rombar: -1,
            romfile: None,
            romsize: u32::MAX,
            bounce: qapi::Size(4096),
            ari: false,
            err_unc_mask: true,
            ext_tag: true,
            extcap: true,
            dllla: true,
        }
    }

    /// Refuses a ROM, for those that have none.
    ///
    /// # Errors
    /// There is one.
    pub fn refuse_rom(&self, class: &str) -> Result<()> {
        if self.romfile.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err(Error::generic(format!(
                "Property '{class}.romfile': expansion ROMs of bridges are not supported"
            )));
        }
        Ok(())
    }

    /// Refuses what would not be honoured; `class` is the device's name.
    ///
    /// # Errors
    /// The first such property, with what would be right.
    pub fn check(&self, class: &str) -> Result<()> {
        if self.busnr.is_some() {
            return Err(Error::generic(format!("Property '{class}.busnr' is not writable")));
        }
        if self.failover_pair_id.is_some() {
            return Err(Error::generic("failover primary device is not an Ethernet device"));
        }
        if self.romsize != u32::MAX && !self.romsize.is_power_of_two() {
            let text = format!("ROM size {} is not a power of two", self.romsize);
            return Err(Error::generic(text));
        }
        if self.acpi_index != 0 {
            return Err(Error::generic(format!(
                "Property '{class}.acpi-index': there are no ACPI tables to number devices in"
            )));
        }
        if self.bounce.0 != 4096 {
            return Err(Error::generic(format!(
                "Property '{class}.x-max-bounce-buffer-size': DMA to device registers is not \
                 buffered, so only the default is taken"
            )));
        }
        Ok(())
    }
}

/// Slot and function; `None` (-1) for the first free slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addr(pub Option<u8>);

impl Addr {
    fn parse(text: &str) -> Option<Addr> {
        if text == "-1" {
            return Some(Addr(None));
        }
        let (slot, number) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| {
            // As libvirt writes it.
            let text = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
            let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(text, 16).ok().filter(|_| plain)
        };
        let (slot, number) = (digits(slot)?, digits(number)?);
        (slot < 32 && number < 8).then_some(Addr(Some(slot << 3 | number)))
    }
}

impl qapi::Qapi for Addr {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "str", doc: "", kind: Kind::Str };
        &INFO
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        // The peer takes the plain number of device and function, too.
        if let Some(number) = value.as_i64() {
            let addr = u8::try_from(number).ok();
            let wrong = || Error::expects("", "a slot and function such as 06.0");
            return if number == -1 {
                Ok(Addr(None))
            } else {
                addr.map(|a| Addr(Some(a))).ok_or_else(wrong)
            };
        }
        let text = String::from_value(value, source)?;
        Addr::parse(&text).ok_or_else(|| Error::expects("", "a slot and function such as 06.0"))
    }
    fn to_value(&self) -> Value {
        match self.0 {
            None => Value::from("-1"),
            Some(devfn) => Value::from(format!("{:02x}.{}", devfn >> 3, devfn & 7).as_str()),
        }
    }
}

/// Declares a type of properties that name things, or that only exist to be read.
#[macro_export]
macro_rules! named_property {
    ($(#[$meta:meta])* $type:ident, $name:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $type(pub String);

        impl qapi::Qapi for $type {
            fn type_info() -> &'static qapi::TypeInfo {
                static INFO: qapi::TypeInfo =
                    qapi::TypeInfo { name: $name, doc: "", kind: qapi::Kind::Str };
                &INFO
            }
            fn from_value(value: qapi::Value, _: qapi::Source) -> qapi::Result<Self> {
                match value {
                    qapi::Value::Str(text) => Ok($type(text)),
                    // What cannot be written is refused in the same words whatever it is.
                    other => Ok($type(qapi::json::to_string(&other))),
                }
            }
            fn to_value(&self) -> qapi::Value {
                qapi::Value::from(self.0.as_str())
            }
        }
    };
}

named_property!(
    /// The type of `busnr`.
    BusNumber, "busnr"
);

#[cfg(test)]
mod tests {
    use super::Addr;

    #[test]
    fn addresses() {
        for (text, want) in [("6", Some(0x30)), ("06.0", Some(0x30)), ("1f.7", Some(0xff))] {
            assert_eq!(Addr::parse(text), Some(Addr(want)), "{text}");
        }
        assert_eq!(Addr::parse("-1"), Some(Addr(None)));
        for wrong in ["", ".", "20", "1.8", "foo", "+1", "1.", "1.0.0", "-2"] {
            assert_eq!(Addr::parse(wrong), None, "{wrong}");
        }
    }
}
