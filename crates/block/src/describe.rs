//! What is shown of images and snapshots, in the peer's words.

use std::fmt::Write as _;

use crate::Snapshot;

/// A number of bytes as the peer shows it: three figures and a unit.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let mut value = bytes as f64;
    while value >= 1000.0 && unit < 6 {
        // 1000 of a unit and more are shown in the next one.
        value /= 1024.0;
        unit += 1;
    }
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text} {}B", UNITS.get(unit).unwrap_or(&""))
}

/// `YYYY-MM-DD hh:mm:ss` of seconds since 1970 in UTC, moved by the host's zone.
fn date(seconds: u32) -> String {
    let (year, month, day, second) = civil(i64::from(seconds) + host::local_offset_seconds());
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}")
}

/// Year, month, day and second of the day of seconds since 1970.
#[must_use]
pub fn civil(seconds: i64) -> (i64, i64, i64, i64) {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01 in eras of 400 years.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(month <= 2), month, day, second)
}

/// A table of snapshots with its head; `number`: ids are shown.
#[must_use]
pub fn snapshot_table(snapshots: &[Snapshot], number: bool) -> String {
    let mut out = String::from(
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n",
    );
    for s in snapshots {
        let (ms, sec) = (s.clock / 1_000_000 % 1000, s.clock / 1_000_000_000);
        let clock = format!("{:04}:{:02}:{:02}.{ms:03}", sec / 3600, sec / 60 % 60, sec % 60);
        let icount = if s.icount == u64::MAX { "--".to_owned() } else { s.icount.to_string() };
        _ = writeln!(
            out,
            "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
            if number { s.id.as_str() } else { "--" },
            s.name,
            human(s.vm_state),
            date(s.seconds),
            clock,
            icount
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_the_peer_does() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (4096, "4 KiB"),
            (200_704, "196 KiB"),
            (1_032_847, "0.985 MiB"),
            (1_080_033, "1.03 MiB"),
            (3 << 20, "3 MiB"),
            (1 << 30, "1 GiB"),
        ];
        for (bytes, text) in &cases {
            assert_eq!(human(*bytes), *text);
        }
    }
}
