//! Which crate may use which: the table of ARCHITECTURE.md, checked against the manifests.

use std::collections::BTreeMap;
use std::fs;

use crate::{Result, root};

/// Crate, layer, family. A crate uses lower or equal layers; leaves (layer 3) never use a leaf of
/// another family.
const CRATES: &[(&str, u8, &str)] = &[
    ("host", 0, ""),
    ("evloop", 0, ""),
    ("trace", 0, ""),
    ("qapi", 0, ""),
    ("derive", 0, ""),
    ("guest-ram", 1, ""),
    ("memory", 1, ""),
    ("vmstate", 1, ""),
    ("device", 1, ""),
    ("cpu", 1, ""),
    ("chardev", 2, ""),
    ("net", 2, ""),
    ("jit-ir", 2, ""),
    ("accel", 2, ""),
    ("softfloat", 2, ""),
    ("decodetree", 2, ""),
    ("jit-interp", 2, ""),
    ("jit-x64", 3, "jit"),
    ("accel-jit", 3, "accel"),
    ("accel-qtest", 3, "accel"),
    ("cpu-arm", 3, "cpu"),
    ("hw-char", 3, "hw"),
    ("hw-intc", 3, "hw"),
    ("hw-iommu", 3, "hw"),
    ("hw-timer", 3, "hw"),
    ("hw-misc", 3, "hw"),
    ("hw-net", 3, "hw"),
    ("hw-storage", 3, "hw"),
    ("pci", 2, ""),
    ("hw-pcihost", 3, "hw"),
    ("virtio", 2, ""),
    ("hw-virtio", 3, "hw"),
    ("objects", 3, "objects"),
    ("net-user", 3, "net"),
    ("block", 2, ""),
    ("block-jobs", 2, ""),
    ("scsi", 2, ""),
    ("block-formats", 3, "block"),
    ("block-net", 3, "block"),
    ("catalog-block", 5, ""),
    ("tinamou-img", 6, ""),
    ("firmware", 4, ""),
    ("machine", 4, ""),
    ("machine-arm", 4, "machine"),
    ("migration", 4, ""),
    ("vmm", 4, ""),
    ("monitor", 4, ""),
    ("gdbstub", 4, ""),
    ("catalog", 5, ""),
    ("tinamou", 6, ""),
    ("testbench", 2, ""),
];

fn rank(name: &str) -> Option<(u8, &'static str)> {
    CRATES.iter().find(|c| c.0 == name).map(|c| (c.1, c.2))
}

/// Own crates in a manifest's `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut on = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            on = line.trim() == "[dependencies]";
        } else if on
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
            && rank(name.trim()).is_some()
        {
            found.push(name.trim().to_owned());
        }
    }
    found
}

fn problem(user: &str, used: &str) -> Option<String> {
    let ((layer, family), (below, other)) = (rank(user)?, rank(used)?);
    if below > layer {
        return Some(format!("{user} (layer {layer}) uses {used} (layer {below})"));
    }
    if layer == 3 && below == 3 && family != other {
        return Some(format!("{user} uses {used}: leaves of different families"));
    }
    if user.starts_with("machine") && used.starts_with("hw-") {
        return Some(format!("{user} uses {used}: machines name devices, they do not link them"));
    }
    if used.starts_with("machine-") && user != "catalog" {
        return Some(format!("{user} uses {used}: only catalog may"));
    }
    (used == "catalog" && user != "tinamou")
        .then(|| format!("{user} uses catalog: only tinamou may"))
}

pub(crate) fn run() -> Result<()> {
    eprintln!("==> layers");
    let mut manifests = BTreeMap::new();
    let dir = root().join("crates");
    for e in fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten() {
        let path = e.path().join("Cargo.toml");
        if let Ok(text) = fs::read_to_string(&path) {
            manifests.insert(e.file_name().to_string_lossy().into_owned(), text);
        }
    }
    let mut bad = Vec::new();
    for (name, text) in &manifests {
        if rank(name).is_none() {
            bad.push(format!("{name} is not in the table of xtask/src/layers.rs"));
        }
        bad.extend(dependencies(text).iter().filter_map(|d| problem(name, d)));
    }
    if bad.is_empty() { Ok(()) } else { Err(format!("layers:\n  {}", bad.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_may_not_use_an_accelerator_or_a_machine() {
        assert!(problem("hw-char", "accel-jit").is_some());
        assert!(problem("hw-char", "machine").is_some());
        assert!(problem("machine-arm", "hw-char").is_some());
        assert!(problem("hw-char", "device").is_none());
    }

    #[test]
    fn only_real_dependencies_count() {
        let toml = "[dependencies]\ndevice.workspace = true\nlibc = \"1\"\n[dev-dependencies]\ntestbench.workspace = true\n";
        assert_eq!(dependencies(toml), ["device"]);
    }
}
