//! `check` and `compare`.

use block::{CheckReport, Fix, Flags, Node};
use qapi::Value;

use crate::options::{Given, graph, open};
use crate::{Done, Fail, say};

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

fn number(n: u64) -> Value {
    i64::try_from(n).map_or(Value::Uint(n), Value::Int)
}

fn json(name: &str, node: &Node, report: &CheckReport) -> Value {
    let mut out = Value::empty();
    let mut put = |key: &str, n: u64, always: bool| {
        if always || n > 0 {
            out.set(key, number(n));
        }
    };
    put("image-end-offset", report.image_end, true);
    put("corruptions-fixed", report.corruptions_fixed, false);
    put("leaks-fixed", report.leaks_fixed, false);
    put("total-clusters", report.total, true);
    put("corruptions", report.corruptions, false);
    put("leaks", report.leaks, false);
    put("check-errors", report.errors, true);
    put("fragmented-clusters", report.fragmented, false);
    put("compressed-clusters", report.compressed, false);
    put("allocated-clusters", report.allocated, true);
    out.set("filename", Value::from(name));
    out.set("format", Value::from(node.class().name));
    out
}

fn human(report: &CheckReport) -> String {
    let CheckReport { corruptions, leaks, errors, .. } = *report;
    let mut out = String::new();
    if corruptions + leaks + errors == 0 {
        out.push_str("No errors were found on the image.\n");
    } else {
        if corruptions > 0 {
            out += &format!(
                "\n{corruptions} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n"
            );
        }
        if leaks > 0 {
            out += &format!(
                "\n{leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n"
            );
        }
        if errors > 0 {
            out += &format!("\n{errors} internal errors have occurred during the check.\n");
        }
    }
    if report.total > 0 && report.allocated > 0 {
        #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        out += &format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.allocated,
            report.total,
            percent(report.allocated, report.total),
            percent(report.fragmented, report.allocated),
            percent(report.compressed, report.allocated)
        );
    }
    if report.image_end > 0 {
        out += &format!("Image end offset: {}\n", report.image_end);
    }
    out
}

pub(crate) fn run(args: &[String]) -> Done {
    let given = Given::of(args, "f:r:J:qUT:h")?;
    let name = given.name()?;
    let fix = match given.value('r') {
        None => Fix::None,
        Some("leaks") => Fix::Leaks,
        Some("all") => Fix::All,
        Some(_) => return Err(Fail("-r expects leaks or all".into(), 1)),
    };
    let is_json = given.is_json()?;
    let flags = Flags {
        read_only: fix == Fix::None,
        force_share: given.has('U'),
        check: true,
        no_backing: true,
        ..Flags::default()
    };
    let graph = graph();
    let node = open(&graph, name, given.value('f'), flags)?;
    let quiet = given.has('q') || is_json;
    let show = |report: &CheckReport| {
        if !quiet {
            for line in &report.messages {
                say(&format!("{line}\n"));
            }
        }
    };
    let checked = |fix: Fix| match node.driver().check(fix) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            Err(Fail("This image format does not support checks".into(), 63))
        }
        Err(error) => Err(Fail(format!("Check failed: {}", host::reason(&error)), 1)),
        Ok(report) => Ok(report),
    };
    let mut report = checked(fix)?;
    show(&report);
    let (leaks, corruptions) = (report.leaks_fixed, report.corruptions_fixed);
    if leaks + corruptions > 0 {
        if !quiet {
            say(&format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    {corruptions} corruptions\n\nDouble checking the fixed image now...\n"
            ));
        }
        report = checked(Fix::None)?;
        show(&report);
        (report.leaks_fixed, report.corruptions_fixed) = (leaks, corruptions);
    }
    if is_json {
        say(&format!("{}\n", qapi::json::to_string_pretty(&json(name, &node, &report))));
    } else if !given.has('q') {
        say(&human(&report));
    }
    Ok(match (report.errors, report.corruptions, report.leaks) {
        (1.., _, _) => 1,
        (_, 1.., _) => 2,
        (_, _, 1..) => 3,
        _ => 0,
    })
}

/// The first byte of a range in which two disks differ.
fn difference(nodes: [&Node; 2], at: u64, len: u64) -> Result<Option<u64>, Fail> {
    let size = usize::try_from(len).unwrap_or(0);
    let mut data = [vec![0; size], vec![0; size]];
    for (node, data) in nodes.iter().zip(&mut data) {
        let there = node.len().saturating_sub(at).min(len);
        let part = data.get_mut(..usize::try_from(there).unwrap_or(0)).unwrap_or_default();
        node.read(at, part).map_err(|error| {
            Fail(
                format!(
                    "Error while reading offset {at} of {}: {}",
                    node.filename(),
                    host::reason(&error)
                ),
                4,
            )
        })?;
    }
    let [a, b] = &data;
    if a == b {
        return Ok(None);
    }
    let first = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
    Ok(Some(at + first as u64))
}

pub(crate) fn compare(args: &[String]) -> Done {
    let given = Given::of(args, "f:F:psqUT:h")?;
    let [one, two] = given.names.as_slice() else {
        return Err(Fail(
            "Expecting two image file names\nTry 'qemu-img --help' for more info".into(),
            2,
        ));
    };
    let flags = Flags { read_only: true, force_share: given.has('U'), ..Flags::default() };
    let graph = graph();
    let open = |name: &str, format| {
        open(&graph, name, format, flags).map_err(|Fail(text, _)| Fail(text, 2))
    };
    let (a, b) = (open(one, given.value('f'))?, open(two, given.value('F'))?);
    let tell = |text: &str| {
        if !given.has('q') {
            say(text);
        }
    };
    if a.len() != b.len() {
        if given.has('s') {
            tell("Strict mode: Image size mismatch!\n");
            return Ok(1);
        }
        tell("Warning: Image size mismatch!\n");
    }
    let (end, mut at) = (a.len().max(b.len()), 0);
    while at < end {
        let mut len = end - at;
        let mut zero = true;
        for node in [&a, &b] {
            if at < node.len() {
                let found = node.extent_of_chain(at, len.min(node.len() - at));
                let (extent, _) = found.map_err(|e| Fail(host::reason(&e), 3))?;
                zero &= extent.zero;
                len = extent.len;
            }
        }
        if !zero {
            len = len.min(PIECE);
            if let Some(at) = difference([&a, &b], at, len)? {
                tell(&format!("Content mismatch at offset {at}!\n"));
                return Ok(1);
            }
        }
        at += len;
    }
    tell("Images are identical.\n");
    Ok(0)
}
