//! What a debugger sees of a CPU: groups of numbered registers, described in gdb's XML.
//!
//! Registers are numbered through all groups in order, from 0. Source: the gdb manual,
//! "Target Descriptions".

/// A group of registers: a `<feature>` of a target description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterGroup {
    /// Name of the file that describes it.
    pub file: &'static str,
    /// Its text, a whole `<feature>` element with the header of an XML file.
    pub xml: String,
    /// Its registers in order: name and bytes.
    pub registers: Vec<(String, usize)>,
}

/// All registers of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterFile {
    /// Name of the architecture in a target description.
    pub architecture: &'static str,
    /// Groups; `g` packets carry the first alone.
    pub groups: Vec<RegisterGroup>,
}

impl RegisterFile {
    /// Number of registers of the first group.
    #[must_use]
    pub fn core(&self) -> u32 {
        self.groups.first().map_or(0, |g| u32::try_from(g.registers.len()).unwrap_or(0))
    }

    /// Number of the register of a name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u32> {
        let mut names = self.groups.iter().flat_map(|g| &g.registers);
        names.position(|(known, _)| known == name).and_then(|at| u32::try_from(at).ok())
    }
}
