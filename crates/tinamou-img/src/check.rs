//! `check`: looks for damage in an image and mends it.
//!
//! The verdict is the exit status: 0 clean, 1 the check could not be done, 2 damage, 3 clusters
//! that nothing uses, 63 the format has no check. After mending, the image is checked once more.
//! Source: QEMU's manual, `qemu-img check`.

use block::{CheckReport, Fix, Flags, Node};
use qapi::Value;

use crate::options::{Given, Opt, cache};
use crate::{Done, Fail, say};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('r', "repair", "leaks|all"),
    ('T', "cache", "CACHE_MODE"),
    ('\0', "output", "human|json"),
];

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
    put("total-clusters", report.total, true);
    put("corruptions-fixed", report.corruptions_fixed, false);
    put("corruptions", report.corruptions, false);
    put("check-errors", report.errors, true);
    put("leaks-fixed", report.leaks_fixed, false);
    put("leaks", report.leaks, false);
    put("fragmented-clusters", report.fragmented, false);
    put("compressed-clusters", report.compressed, false);
    put("allocated-clusters", report.allocated, false);
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
    let Some(given) = Given::of("check", args, OPTIONS)? else { return Ok(0) };
    let fix = match given.value("repair") {
        None => Fix::None,
        Some("leaks") => Fix::Leaks,
        Some("all") => Fix::All,
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(given.usage(&text));
        }
    };
    let is_json = given.is_json()?;
    let name = given.name()?;
    let mode = cache(given.value("cache"), "source ")?;
    let flags =
        mode.flags(Flags { check: true, no_backing: true, ..given.flags(fix == Fix::None) });
    let graph = given.graph()?;
    let node = given.open(&graph, name, given.value("format"), flags)?;
    if node.class().name == "raw" || node.class().protocol {
        return Err(Fail("This image format does not support checks".into(), 63));
    }
    run_check(&given, &node, name, fix, is_json)
}

fn run_check(given: &Given, node: &Node, name: &str, fix: Fix, is_json: bool) -> Done {
    let quiet = given.has("quiet") || is_json;
    let show = |report: &CheckReport| {
        if !given.has("quiet") {
            for line in &report.messages {
                eprintln!("{line}");
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
        say(&format!("{}\n", qapi::json::to_string_pretty(&json(name, node, &report))));
    } else if !given.has("quiet") {
        say(&human(&report));
    }
    Ok(match (report.errors, report.corruptions, report.leaks) {
        (1.., _, _) => 1,
        (_, 1.., _) => 2,
        (_, _, 1..) => 3,
        _ => 0,
    })
}
