//! The order of members in replies about storage.
//!
//! JSON leaves it open, but programs and people compare replies as text: members stand as QEMU has
//! them. Its order of all members that replies can have is one list; what is not in it comes last.
//! Source: replies of QEMU 10.0.

use qapi::Value;

const ORDER: &[&str] = &[
    "avg_flush_latency_ns",
    "avg_rd_queue_depth",
    "backing-image",
    "backing-filename-format",
    "bins",
    "boundaries",
    "bps-read-max-length",
    "cid",
    "compat",
    "compression-type",
    "discard-bytes-ok",
    "discard-nb-ok",
    "driver",
    "discard-nb-failed",
    "edges",
    "flags",
    "icount",
    "io-status",
    "device",
    "iops-read-max-length",
    "bps-read-max",
    "bps-total",
    "iops-total-max-length",
    "iops-total",
    "iops-write-max",
    "bps-write",
    "bps-total-max",
    "bps-write-max",
    "iops-size",
    "iops-read",
    "iops-write-max-length",
    "iops-write",
    "bps-total-max-length",
    "iops-read-max",
    "bps-read",
    "bps-write-max-length",
    "iops-total-max",
    "iops_rd",
    "detect_zeroes",
    "active",
    "iops_max_length",
    "bps_max_length",
    "image",
    "iops_wr",
    "group",
    "iters",
    "ivgen-alg",
    "detached-header",
    "hash-alg",
    "cipher-alg",
    "key-offset",
    "lazy-refcounts",
    "bitmaps",
    "locked",
    "min_rd_latency_ns",
    "max_flush_latency_ns",
    "avg_wr_latency_ns",
    "avg_zone_append_latency_ns",
    "interval_length",
    "max_wr_latency_ns",
    "max_zone_append_latency_ns",
    "avg_rd_latency_ns",
    "max_rd_latency_ns",
    "min_flush_latency_ns",
    "avg_wr_queue_depth",
    "min_wr_latency_ns",
    "min_zone_append_latency_ns",
    "avg_zone_append_queue_depth",
    "no-flush",
    "direct",
    "nodes",
    "parent-cid",
    "create-type",
    "extents",
    "refcount-bits",
    "data-file",
    "data-file-raw",
    "encrypt",
    "corrupt",
    "extended-l2",
    "removable",
    "inserted",
    "ro",
    "snapshots",
    "stripes",
    "uuid",
    "virtual-size",
    "filename",
    "cluster-size",
    "format",
    "actual-size",
    "cipher-mode",
    "format-specific",
    "full-backing-filename",
    "backing-filename",
    "slots",
    "payload-offset",
    "master-key-iters",
    "vm-clock-nsec",
    "name",
    "date-sec",
    "date-nsec",
    "parent",
    "recording",
    "persistent",
    "busy",
    "granularity",
    "count",
    "inconsistent",
    "shared-perm",
    "perm",
    "child",
    "stats",
    "backing",
    "node-name",
    "bps_wr_max_length",
    "driver-specific",
    "iops_size",
    "backing_file_depth",
    "iops_rd_max_length",
    "bps_wr_max",
    "bps_rd_max_length",
    "drv",
    "bps_max",
    "iops_rd_max",
    "iops",
    "bps_wr",
    "bps_rd_max",
    "qdev",
    "tray_open",
    "type",
    "data",
    "vm-clock-sec",
    "id",
    "vm-state-size",
    "write_threshold",
    "backing_file",
    "dirty-bitmaps",
    "encrypted",
    "bps",
    "bps_rd",
    "cache",
    "dirty-flag",
    "iops_max",
    "file",
    "iops_wr_max_length",
    "iops_wr_max",
    "writeback",
    "zone_append_latency_histogram",
    "unmap_operations",
    "unmap_merged",
    "failed_zone_append_operations",
    "flush_total_time_ns",
    "wr_highest_offset",
    "wr_total_time_ns",
    "failed_wr_operations",
    "failed_rd_operations",
    "wr_merged",
    "wr_bytes",
    "timed_stats",
    "failed_unmap_operations",
    "zone_append_merged",
    "failed_flush_operations",
    "account_invalid",
    "rd_total_time_ns",
    "invalid_unmap_operations",
    "flush_operations",
    "wr_operations",
    "unmap_bytes",
    "rd_merged",
    "rd_bytes",
    "wr_latency_histogram",
    "unmap_total_time_ns",
    "invalid_flush_operations",
    "account_failed",
    "zone_append_total_time_ns",
    "zone_append_operations",
    "rd_operations",
    "zone_append_bytes",
    "invalid_zone_append_operations",
    "invalid_wr_operations",
    "invalid_rd_operations",
    "rd_latency_histogram",
    "flush_latency_histogram",
];

/// Whether members of a command's reply are put in order.
pub(crate) fn is_ordered(command: &str) -> bool {
    command.starts_with("query-block")
        || ["query-named-block-nodes", "x-debug-query-block-graph", "qom-get"].contains(&command)
}

/// Puts members in order, at every depth.
pub(crate) fn order(value: Value) -> Value {
    match value {
        Value::Map(members) => {
            let place = |key: &str| ORDER.iter().position(|known| *known == key);
            let mut members: Vec<_> = members
                .into_iter()
                .map(|(key, value)| (place(&key).unwrap_or(ORDER.len()), key, order(value)))
                .collect();
            members.sort_by_key(|(place, ..)| *place);
            Value::Map(members.into_iter().map(|(_, key, value)| (key, value)).collect())
        }
        Value::List(all) => Value::List(all.into_iter().map(order).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_as_the_peer_has_them() {
        let text =
            r#"[{"zz": 1, "file": "a", "image": {"format": "b", "virtual-size": 2}, "ro": true}]"#;
        let value = order(qapi::json::from_str(text).unwrap());
        let text =
            r#"[{"image": {"virtual-size": 2, "format": "b"}, "ro": true, "file": "a", "zz": 1}]"#;
        assert_eq!(qapi::json::to_string(&value), text);
        assert!(is_ordered("query-blockstats") && !is_ordered("query-status"));
    }
}
