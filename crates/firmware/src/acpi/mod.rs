//! ACPI tables and the script by which firmware puts them into memory.
//!
//! [`Tables`] collects tables in one file and writes the commands of QEMU's table loader (manual,
//! "fw_cfg device", `etc/table-loader`): allocate, add pointer, add checksum. The bodies of the tables
//! that are lists of numbers are in [`fixed`]; machines write the DSDT with `acpi_tables::aml`.
//! Sources: ACPI 6.5; IORT: Arm DEN0049; SPCR, DBG2: Microsoft's specifications; layout and order as
//! QEMU 10.0's files show. Not here: FACS, RSDT, BERT, HEST, TPM2, CXL.

pub mod fixed;

/// The fw_cfg file of the tables.
const TABLES: &str = "etc/acpi/tables";
/// The fw_cfg file of the root pointer.
const RSDP: &str = "etc/acpi/rsdp";
/// Name length of a file in a command.
const NAME: usize = 56;
/// Bytes of a command.
const COMMAND: usize = 128;
/// The file of tables is padded to this.
const ALIGN: usize = 0x2_0000;

/// Who made the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oem {
    /// OEM ID, at most 6 characters.
    pub id: String,
    /// OEM table ID, at most 8 characters.
    pub table: String,
}

impl Default for Oem {
    fn default() -> Self {
        Self { id: "BOCHS ".into(), table: "BXPC    ".into() }
    }
}

/// Tables being collected.
#[derive(Debug, Default)]
pub struct Tables {
    oem: Oem,
    blob: Vec<u8>,
    script: Vec<u8>,
    /// Offsets of the tables that the XSDT lists.
    listed: Vec<u32>,
}

fn padded(text: &str, len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = text.bytes().take(len).collect();
    out.resize(len, 0);
    out
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Tables {
    /// No tables yet.
    #[must_use]
    pub fn new(oem: Oem) -> Self {
        let mut t = Self { oem, ..Self::default() };
        t.allocate(RSDP, 16, 2);
        t.allocate(TABLES, 64, 1);
        t
    }

    fn command(&mut self, kind: u32, files: &[&str], numbers: &[u32], last: Option<u8>) {
        let start = self.script.len();
        self.script.extend(kind.to_le_bytes());
        for file in files {
            self.script.extend(padded(file, NAME));
        }
        for n in numbers {
            self.script.extend(n.to_le_bytes());
        }
        self.script.extend(last);
        self.script.resize(start + COMMAND, 0);
    }

    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        self.command(1, &[file], &[align], Some(zone));
    }

    fn add_pointer(&mut self, file: &str, at: u32) {
        self.command(2, &[file, TABLES], &[at], Some(8));
    }

    fn add_checksum(&mut self, file: &str, at: u32, start: u32, len: u32) {
        self.command(3, &[file], &[at, start, len], None);
    }

    /// Adds a table. `pointers` are offsets in `body` of 8-byte addresses of tables, which hold
    /// offsets in the file until firmware knows better. Gives the table's own offset.
    pub fn add(&mut self, signature: [u8; 4], revision: u8, body: &[u8], pointers: &[u32]) -> u32 {
        let start = number(self.blob.len());
        let header = self.header(signature, revision, body.len());
        let first = number(header.len());
        self.blob.extend(header);
        self.blob.extend(body);
        for at in pointers {
            self.add_pointer(TABLES, start + first + at);
        }
        let len = number(self.blob.len()) - start;
        self.add_checksum(TABLES, start + 9, start, len);
        if signature != *b"DSDT" {
            self.listed.push(start);
        }
        start
    }

    /// ACPI 6.5, 5.2.6.
    fn header(&self, signature: [u8; 4], revision: u8, body: usize) -> Vec<u8> {
        let mut out = signature.to_vec();
        out.extend(number(36 + body).to_le_bytes());
        // The checksum is the loader's.
        out.extend([revision, 0]);
        out.extend(padded(&self.oem.id, 6));
        out.extend(padded(&self.oem.table, 8));
        out.extend(1u32.to_le_bytes());
        out.extend(b"BXPC");
        out.extend(1u32.to_le_bytes());
        out
    }

    /// The finished files: names and contents.
    #[must_use]
    pub fn finish(mut self) -> Vec<(&'static str, Vec<u8>)> {
        let listed = std::mem::take(&mut self.listed);
        let body: Vec<u8> = listed.iter().flat_map(|at| u64::from(*at).to_le_bytes()).collect();
        let pointers: Vec<u32> = (0..number(listed.len())).map(|n| 8 * n).collect();
        let xsdt = self.add(*b"XSDT", 1, &body, &pointers);
        // ACPI 6.5, 5.2.5.3.
        let mut rsdp = b"RSD PTR \0".to_vec();
        rsdp.extend(padded(&self.oem.id, 6));
        rsdp.extend([2, 0, 0, 0, 0, 36, 0, 0, 0]);
        rsdp.extend(u64::from(xsdt).to_le_bytes());
        rsdp.resize(36, 0);
        self.add_checksum(RSDP, 8, 0, 20);
        self.add_pointer(RSDP, 24);
        self.add_checksum(RSDP, 32, 0, 36);
        self.blob.resize(self.blob.len().next_multiple_of(ALIGN), 0);
        vec![(TABLES, self.blob), (RSDP, rsdp), ("etc/table-loader", self.script)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_leads_to_every_table() {
        let mut t = Tables::new(Oem::default());
        let dsdt = t.add(*b"DSDT", 2, &[1, 2, 3], &[]);
        let facp = t.add(*b"FACP", 6, &[0; 8], &[0]);
        assert_eq!((dsdt, facp), (0, 39));
        let files = t.finish();
        let (tables, rsdp, script) = (&files[0].1, &files[1].1, &files[2].1);
        assert_eq!(&tables[39..43], b"FACP");
        assert_eq!(&tables[83..87], b"XSDT");
        assert_eq!(tables[83 + 36], 39);
        assert_eq!(rsdp[24], 83);
        let kinds: Vec<u8> = script.chunks(COMMAND).map(|c| c[0]).collect();
        assert_eq!(kinds, [1, 1, 3, 2, 3, 2, 3, 3, 2, 3]);
        assert_eq!(tables.len(), 0x2_0000);
    }
}
