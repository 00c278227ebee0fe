//! SMBIOS tables of a virtual machine (DMTF DSP0134, version 3.0) and what users put into them.
//!
//! [`Options`] collects the `-smbios` options; [`build`] makes the two files that firmware reads.
//! Defaults, handles, order and texts are QEMU 10.0's for the Arm machine. Not built: type 38 (there
//! is no BMC), the legacy 32-bit entry point.

use std::fmt::Write as _;

use qapi::{Error, Result};

/// Text fields of a type: option name, in the order of QEMU's help.
type Fields = &'static [&'static str];

const TYPES: &[(u8, Fields)] = &[
    (0, &["vendor", "version", "date", "release", "uefi"]),
    (1, &["manufacturer", "product", "version", "serial", "uuid", "sku", "family"]),
    (2, &["manufacturer", "product", "version", "serial", "asset", "location"]),
    (3, &["manufacturer", "version", "serial", "asset", "sku"]),
    (
        4,
        &[
            "sock_pfx",
            "manufacturer",
            "version",
            "serial",
            "asset",
            "part",
            "max-speed",
            "current-speed",
            "processor-family",
            "processor-id",
        ],
    ),
    (8, &["internal_reference", "external_reference", "connector_type", "port_type"]),
    (
        9,
        &[
            "slot_designation",
            "slot_type",
            "slot_data_bus_width",
            "current_usage",
            "slot_length",
            "slot_id",
            "slot_characteristics1",
            "slot_characteristics2",
            "pcidev",
        ],
    ),
    (11, &["value", "path"]),
    (17, &["loc_pfx", "bank", "manufacturer", "serial", "asset", "part", "speed"]),
    (41, &["designation", "kind", "instance", "pcidev"]),
];

/// Kinds of type 41.
const KINDS: [&str; 10] =
    ["other", "unknown", "video", "scsi", "ethernet", "tokenring", "sound", "pata", "sata", "sas"];

/// One `-smbios type=…`.
#[derive(Clone, Debug)]
struct Given {
    kind: u8,
    fields: Vec<(String, String)>,
}

/// The `-smbios` options.
#[derive(Clone, Debug, Default)]
pub struct Options {
    given: Vec<Given>,
    /// Structures from files, as they are.
    files: Vec<u8>,
}

fn invalid(what: &str) -> Error {
    Error::generic(format!("Invalid {what}"))
}

impl Options {
    /// Takes one option as parsed from the command line. Files are read with `read`.
    ///
    /// # Errors
    /// What QEMU says: no type, an unknown one, an unknown or malformed field, a file that cannot be
    /// read or is no structure.
    pub fn add(
        &mut self,
        option: &[(String, String)],
        read: &dyn Fn(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<()> {
        let find = |name: &str| option.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        if let Some(path) = find("file") {
            if let Some((other, _)) = option.iter().find(|(k, _)| k != "file") {
                return Err(Error::invalid_parameter(other));
            }
            let failed = || Error::generic(format!("Cannot read SMBIOS file {path}"));
            return self.add_file(&read(path).map_err(|_| failed())?);
        }
        let kind = find("type").ok_or_else(|| Error::generic("Must specify type= or file="))?;
        let kind: u64 =
            kind.parse().map_err(|_| Error::generic("Parameter 'type' expects a number"))?;
        let known = TYPES.iter().find(|(k, _)| u64::from(*k) == kind);
        let (kind, names) = *known.ok_or_else(|| {
            Error::generic(format!("Don't know how to build fields for SMBIOS type {kind}"))
        })?;
        let mut fields = Vec::new();
        for (name, value) in option.iter().filter(|(k, _)| k != "type") {
            if !names.contains(&name.as_str()) {
                return Err(Error::invalid_parameter(name));
            }
            check(kind, name, value)?;
            if (kind, name.as_str()) == (11, "path") {
                let failed = |e| Error::generic(format!("Unable to open {value}: {e}"));
                let text = String::from_utf8_lossy(&read(value).map_err(failed)?).into_owned();
                fields.push(("value".into(), text));
            } else {
                fields.push((name.clone(), value.clone()));
            }
        }
        self.given.push(Given { kind, fields });
        Ok(())
    }

    /// Structures of a file: header, formatted part, strings.
    fn add_file(&mut self, data: &[u8]) -> Result<()> {
        let len = usize::from(data.get(1).copied().unwrap_or(0));
        let ends = data.get(len..).is_some_and(|s| s.windows(2).any(|w| w == [0, 0]));
        if len < 4 || !ends {
            return Err(Error::generic("SMBIOS file is not a structure"));
        }
        self.files.extend(data);
        Ok(())
    }

    fn of(&self, kind: u8) -> impl Iterator<Item = &Given> {
        self.given.iter().filter(move |g| g.kind == kind)
    }

    /// Whether an option names a PCI device, which must exist when the files are made.
    #[must_use]
    pub fn names_devices(&self) -> bool {
        self.given.iter().any(|g| g.get("pcidev").is_some())
    }

    /// The last value that was given for a field of a type.
    fn text(&self, kind: u8, name: &str) -> Option<&str> {
        self.of(kind).filter_map(|g| g.get(name)).last()
    }

    /// A number, which only the last option of the type can give.
    fn number(&self, kind: u8, name: &str) -> Option<u64> {
        self.of(kind).last()?.get(name).and_then(number)
    }

    /// The machine's UUID if type 1 names one.
    fn uuid(&self) -> Option<[u8; 16]> {
        self.text(1, "uuid").and_then(parse_uuid)
    }
}

fn number(text: &str) -> Option<u64> {
    qapi::parse_int(text).and_then(|n| u64::try_from(n).ok())
}

impl Given {
    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    fn number(&self, name: &str) -> u64 {
        self.get(name).and_then(number).unwrap_or(0)
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    if hex.len() != 32 || dashes != [8, 13, 18, 23] {
        return None;
    }
    let mut out = [0; 16];
    for (n, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(out)
}

fn release(text: &str) -> Option<(u8, u8)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn check(kind: u8, name: &str, value: &str) -> Result<()> {
    let numeric = [
        (4, "max-speed"),
        (4, "current-speed"),
        (4, "processor-family"),
        (4, "processor-id"),
        (8, "connector_type"),
        (8, "port_type"),
        (17, "speed"),
        (41, "instance"),
    ];
    let is_number = numeric.contains(&(kind, name))
        || kind == 9 && !["slot_designation", "pcidev"].contains(&name);
    match (kind, name) {
        (0, "release") if release(value).is_none() => Err(invalid("release")),
        (0, "uefi") if !["on", "off", "yes", "no", "true", "false", "y", "n"].contains(&value) => {
            Err(Error::generic("Parameter 'uefi' expects 'on' or 'off'"))
        }
        (1, "uuid") if parse_uuid(value).is_none() => Err(invalid("UUID")),
        (41, "kind") if !KINDS.contains(&value) => {
            Err(Error::generic(format!("Invalid parameter '{value}'")))
        }
        _ if is_number && number(value).is_none() => {
            Err(Error::generic(format!("Parameter '{name}' expects a number")))
        }
        _ => Ok(()),
    }
}

/// What the machine says of itself.
#[derive(Clone)]
pub struct Machine<'a> {
    /// Manufacturer of what nobody else made.
    pub manufacturer: &'a str,
    /// The product.
    pub product: &'a str,
    /// Its version.
    pub version: &'a str,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// Packages, and cores and threads of each.
    pub cpus: (u32, u32, u32),
    /// RAM: address and length.
    pub ram: (u64, u64),
    /// Most bytes of one memory device.
    pub device: u64,
    /// Bus and device/function number of a PCI device by its id.
    pub pci: &'a dyn Fn(&str) -> Option<(u8, u8)>,
}

/// One structure being written.
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let mut s = Self { bytes: vec![kind, 0], strings: Vec::new() };
        s.u16(handle);
        s
    }
    /// The number of a text: 0 = none, else its place among the strings (from 1).
    fn string(&mut self, text: Option<&str>) -> &mut Self {
        let number = match text.filter(|t| !t.is_empty()) {
            None => 0,
            Some(t) => {
                self.strings.push(t.replace('\0', ""));
                u8::try_from(self.strings.len()).unwrap_or(0)
            }
        };
        self.u8(number)
    }
    fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes.push(v);
        self
    }
    fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes.extend(v.to_le_bytes());
        self
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes.extend(v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes.extend(v.to_le_bytes());
        self
    }
    fn finish(mut self, out: &mut Vec<u8>) {
        let len = u8::try_from(self.bytes.len()).unwrap_or(u8::MAX);
        if let Some(at) = self.bytes.get_mut(1) {
            *at = len;
        }
        out.extend(self.bytes);
        for s in &self.strings {
            out.extend(s.bytes());
            out.push(0);
        }
        out.extend(if self.strings.is_empty() { &[0, 0][..] } else { &[0] });
    }
}

/// The bytes of a UUID as SMBIOS stores them: the first three fields little-endian.
fn stored_uuid(mut u: [u8; 16]) -> [u8; 16] {
    u[0..4].reverse();
    u[4..6].reverse();
    u[6..8].reverse();
    u
}

fn low<T: TryFrom<u64> + Default>(v: u64, most: T) -> T {
    T::try_from(v).unwrap_or(most)
}

const CHASSIS: u16 = 0x300;
const MEMORY_ARRAY: u16 = 0x1000;
const NO_HANDLE: u16 = 0xfffe;

/// Makes the tables and the entry point: names and contents of firmware's files.
///
/// # Errors
/// An option names a PCI device that does not exist.
pub fn build(o: &Options, m: &Machine<'_>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut out = o.files.clone();
    bios(o, &mut out);
    system(o, m, &mut out);
    board(o, m, &mut out);
    chassis(o, m, &mut out);
    processors(o, m, &mut out);
    connectors(o, &mut out);
    slots(o, m, &mut out)?;
    oem_strings(o, &mut out);
    memory(o, m, &mut out);
    let mut boot = Structure::new(32, 0x2000);
    boot.u32(0).u16(0).u8(0);
    boot.finish(&mut out);
    onboard(o, m, &mut out)?;
    Structure::new(127, 0x7f00).finish(&mut out);
    let mut anchor = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
    anchor.extend(u32::try_from(out.len()).unwrap_or(u32::MAX).to_le_bytes());
    anchor.extend([0; 8]);
    Ok(vec![("etc/smbios/smbios-tables", out), ("etc/smbios/smbios-anchor", anchor)])
}

fn bios(o: &Options, out: &mut Vec<u8>) {
    if o.of(0).next().is_none() {
        return;
    }
    let mut s = Structure::new(0, 0);
    s.string(o.text(0, "vendor")).string(o.text(0, "version")).u16(0xe800);
    s.string(o.text(0, "date")).u8(0);
    // Characteristics are not told; targeted content distribution; UEFI; a virtual machine.
    let uefi = o
        .of(0)
        .last()
        .and_then(|g| g.get("uefi"))
        .is_some_and(|t| ["on", "yes", "true", "y"].contains(&t));
    s.u64(8).u8(0).u8(if uefi { 0x1c } else { 0x14 });
    let (major, minor) = o.text(0, "release").and_then(release).unwrap_or((0, 0));
    s.u8(major).u8(minor).u8(0xff).u8(0xff);
    s.finish(out);
}

fn system(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) {
    let mut s = Structure::new(1, 0x100);
    s.string(Some(o.text(1, "manufacturer").unwrap_or(m.manufacturer)));
    s.string(Some(o.text(1, "product").unwrap_or(m.product)));
    s.string(Some(o.text(1, "version").unwrap_or(m.version)));
    s.string(o.text(1, "serial"));
    let uuid = o.uuid().or(m.uuid).map_or([0; 16], stored_uuid);
    s.bytes.extend(uuid);
    const POWER_SWITCH: u8 = 6;
    s.u8(POWER_SWITCH).string(o.text(1, "sku")).string(o.text(1, "family"));
    s.finish(out);
}

fn board(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) {
    if o.of(2).next().is_none() {
        return;
    }
    let mut s = Structure::new(2, 0x200);
    s.string(Some(o.text(2, "manufacturer").unwrap_or(m.manufacturer)));
    s.string(Some(o.text(2, "product").unwrap_or(m.product)));
    s.string(Some(o.text(2, "version").unwrap_or(m.version)));
    s.string(o.text(2, "serial")).string(o.text(2, "asset")).u8(1);
    s.string(o.text(2, "location")).u16(CHASSIS).u8(0x0a).u8(0);
    s.finish(out);
}

fn chassis(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) {
    let mut s = Structure::new(3, CHASSIS);
    s.string(Some(o.text(3, "manufacturer").unwrap_or(m.manufacturer))).u8(1);
    s.string(Some(o.text(3, "version").unwrap_or(m.version)));
    s.string(o.text(3, "serial")).string(o.text(3, "asset"));
    // States safe, security unknown.
    s.u8(3).u8(3).u8(3).u8(2).u32(0).u8(0).u8(0).u8(0).u8(0).string(o.text(3, "sku"));
    s.finish(out);
}

fn processors(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) {
    let (sockets, cores, threads) = m.cpus;
    let (mut max, mut current) = (2000, 2000);
    if let Some(v) = o.number(4, "max-speed") {
        max = low(v, u16::MAX);
    }
    if let Some(v) = o.number(4, "current-speed") {
        current = low(v, u16::MAX);
    }
    for n in 0..sockets {
        let mut s = Structure::new(4, 0x400 + low(u64::from(n), 0u16));
        let mut name = o.text(4, "sock_pfx").unwrap_or("CPU").to_owned();
        _ = write!(name, " {n}");
        s.string(Some(&name)).u8(3).u8(0xfe);
        s.string(Some(o.text(4, "manufacturer").unwrap_or(m.manufacturer)));
        s.u64(o.number(4, "processor-id").unwrap_or(0));
        s.string(Some(o.text(4, "version").unwrap_or(m.version)));
        s.u8(0).u16(0).u16(max).u16(current).u8(0x41).u8(1);
        s.u16(0xffff).u16(0xffff).u16(0xffff);
        s.string(o.text(4, "serial")).string(o.text(4, "asset")).string(o.text(4, "part"));
        let few = |v: u32| u8::try_from(v).unwrap_or(u8::MAX);
        let many = |v: u32| low(u64::from(v), 0xfffeu16);
        s.u8(few(cores)).u8(few(cores)).u8(few(threads)).u16(2);
        s.u16(low(o.number(4, "processor-family").unwrap_or(1), 1));
        s.u16(many(cores)).u16(many(cores)).u16(many(threads));
        s.finish(out);
    }
}

fn connectors(o: &Options, out: &mut Vec<u8>) {
    for (n, g) in (0u16..).zip(o.of(8)) {
        let mut s = Structure::new(8, n);
        s.string(g.get("internal_reference")).u8(0).string(g.get("external_reference"));
        s.u8(low(g.number("connector_type"), 0)).u8(low(g.number("port_type"), 0));
        s.finish(out);
    }
}

fn pci_address(m: &Machine<'_>, id: &str) -> Result<(u8, u8)> {
    (m.pci)(id).ok_or_else(|| Error::generic(format!("No PCI device {id} for SMBIOS entry")))
}

fn slots(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) -> Result<()> {
    for (n, g) in (0x900u16..).zip(o.of(9)) {
        let mut s = Structure::new(9, n);
        s.string(g.get("slot_designation"));
        for name in ["slot_type", "slot_data_bus_width", "current_usage", "slot_length"] {
            s.u8(low(g.number(name), 0));
        }
        s.u16(low(g.number("slot_id"), 0));
        s.u8(low(g.number("slot_characteristics1"), 0));
        s.u8(low(g.number("slot_characteristics2"), 0));
        match g.get("pcidev") {
            None => s.u16(0xff).u8(0xff).u8(0xff),
            Some(id) => {
                let (bus, function) = pci_address(m, id)?;
                s.u16(0).u8(bus).u8(function)
            }
        };
        s.finish(out);
    }
    Ok(())
}

fn oem_strings(o: &Options, out: &mut Vec<u8>) {
    let values: Vec<&str> = o
        .of(11)
        .flat_map(|g| &g.fields)
        .filter(|(k, _)| k == "value")
        .map(|(_, v)| v.as_str())
        .collect();
    if values.is_empty() {
        return;
    }
    let mut s = Structure::new(11, 0xe00);
    s.u8(u8::try_from(values.len()).unwrap_or(u8::MAX));
    s.strings.extend(values.iter().take(255).map(|v| v.replace('\0', "")));
    s.finish(out);
}

fn memory(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) {
    const MIB: u64 = 1 << 20;
    let (base, len) = m.ram;
    let device = m.device.max(MIB);
    let count = len.div_ceil(device).max(1);
    let mut s = Structure::new(16, MEMORY_ARRAY);
    s.u8(1).u8(3).u8(6);
    match u32::try_from(len >> 10).ok().filter(|kib| *kib < 0x8000_0000) {
        Some(kib) => s.u32(kib),
        None => s.u32(0x8000_0000),
    };
    s.u16(NO_HANDLE).u16(low(count, u16::MAX));
    s.u64(if len >> 10 < 0x8000_0000 { 0 } else { len });
    s.finish(out);
    for n in 0..count.min(0x200) {
        let this = (len - n * device).min(device);
        let mut s = Structure::new(17, low(0x1100 + n, u16::MAX));
        s.u16(MEMORY_ARRAY).u16(NO_HANDLE).u16(0xffff).u16(0xffff);
        let mib = this.div_ceil(MIB);
        match u16::try_from(mib).ok().filter(|mib| *mib < 0x7fff) {
            Some(mib) => s.u16(mib),
            None => s.u16(0x7fff),
        };
        let name = format!("{} {n}", o.text(17, "loc_pfx").unwrap_or("DIMM"));
        s.u8(9).u8(0).string(Some(&name)).string(o.text(17, "bank")).u8(7).u16(2);
        let speed = low(o.number(17, "speed").unwrap_or(0), 0u16);
        s.u16(speed).string(Some(o.text(17, "manufacturer").unwrap_or(m.manufacturer)));
        s.string(o.text(17, "serial")).string(o.text(17, "asset")).string(o.text(17, "part"));
        let extended = if mib < 0x7fff { 0 } else { low(mib, u32::MAX) };
        s.u8(0).u32(extended).u16(speed).u16(0).u16(0).u16(0);
        s.finish(out);
    }
    let mut s = Structure::new(19, 0x1300);
    let (first, last) = (base >> 10, (base + (len.max(1) - 1)) >> 10);
    if last < 0xffff_ffff {
        s.u32(low(first, 0)).u32(low(last, 0)).u16(MEMORY_ARRAY).u8(1).u64(0).u64(0);
    } else {
        s.u32(u32::MAX)
            .u32(u32::MAX)
            .u16(MEMORY_ARRAY)
            .u8(1)
            .u64(base)
            .u64(base + (len.max(1) - 1));
    }
    s.finish(out);
}

fn onboard(o: &Options, m: &Machine<'_>, out: &mut Vec<u8>) -> Result<()> {
    for (n, g) in (0x2900u16..).zip(o.of(41)) {
        let kind = g.get("kind").and_then(|k| KINDS.iter().position(|known| *known == k));
        let kind = kind.and_then(|k| u8::try_from(k + 1).ok()).unwrap_or(1);
        let mut s = Structure::new(41, n);
        const ENABLED: u8 = 0x80;
        let instance = if g.get("instance").is_some() { g.number("instance") } else { 1 };
        s.string(g.get("designation")).u8(kind | ENABLED).u8(low(instance, 1));
        let (bus, function) = match g.get("pcidev") {
            Some(id) => pci_address(m, id)?,
            None => (0, 0),
        };
        s.u16(0).u8(bus).u8(function);
        s.finish(out);
    }
    Ok(())
}

/// Splits an option's text into names and values; a doubled comma stands for one. Names may repeat.
#[must_use]
pub fn pairs(text: &str) -> Vec<(String, String)> {
    const COMMA: char = '\u{0}';
    let marked = text.replace('\0', "").replace(",,", &COMMA.to_string());
    let plain = |t: &str| t.replace(COMMA, ",");
    let pair = |part: &str| match part.split_once('=') {
        Some((name, value)) => (plain(name), plain(value)),
        None => (plain(part), "on".into()),
    };
    marked.split(',').filter(|part| !part.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(o: &mut Options, text: &str) -> Result<()> {
        o.add(&pairs(text), &|path| match path {
            "short" => Ok(vec![1]),
            "text" => Ok(b"from a file".to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        })
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("manufacturer=x", "Must specify type= or file="),
            ("type=x", "Parameter 'type' expects a number"),
            ("type=99", "Don't know how to build fields for SMBIOS type 99"),
            ("type=1,bogus=3", "Invalid parameter 'bogus'"),
            ("type=0,release=1", "Invalid release"),
            ("type=1,uuid=zz", "Invalid UUID"),
            ("type=4,max-speed=fast", "Parameter 'max-speed' expects a number"),
            ("file=/nonexist", "Cannot read SMBIOS file /nonexist"),
            ("file=short", "SMBIOS file is not a structure"),
        ] {
            let e = add(&mut Options::default(), text).expect_err(text);
            assert_eq!(e.desc, wanted, "{text}");
        }
    }

    #[test]
    fn repeated_strings_and_commas_are_kept() {
        let mut o = Options::default();
        add(&mut o, "type=11,value=a,,b,value=c,path=text").expect("valid");
        let mut out = Vec::new();
        oem_strings(&o, &mut out);
        assert_eq!(out, b"\x0b\x05\x00\x0e\x03a,b\0c\0from a file\0\0");
    }
}
