//! `-rtc`: the wall clock that the guest is shown.
//!
//! `base` is `utc` (default), `localtime` or a date; `clock` says what moves it:
//! `host` (the host's wall clock, default), `rt` (the host's monotonic clock) or `vm`
//! (the guest's clock, which stops with it). `driftfix=none` is accepted, `slew` is
//! not built: it concerns x86 timers. Source: QEMU's manual.

use std::sync::Arc;

use device::{Clock, WallClock};
use qapi::{Value, keyval::Dialect};

use crate::{
    fail::{At as _, Step, Stop},
    settings::Placed,
};

const SECOND: i64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Base {
    #[default]
    Utc,
    Localtime,
    /// Seconds since 1970.
    Date(i64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Source {
    #[default]
    Host,
    Rt,
    Vm,
}

/// What `-rtc` asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rtc {
    base: Base,
    clock: Source,
}

/// Reads the option.
pub(crate) fn parse(given: &Placed) -> Step<Rtc> {
    let value = Dialect::flat(None).parse(&given.value).at(&given.place)?.value;
    let mut rtc = Rtc::default();
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        match (key.as_str(), text) {
            ("base", "utc") => rtc.base = Base::Utc,
            ("base", "localtime") => rtc.base = Base::Localtime,
            ("base", text) => {
                let seconds = date(text).ok_or_else(|| {
                    Stop::at(&given.place, "invalid datetime format")
                        .hint("valid formats: '2006-06-17T16:01:21' or '2006-06-17'")
                })?;
                rtc.base = Base::Date(seconds);
            }
            ("clock", "host") => rtc.clock = Source::Host,
            ("clock", "rt") => rtc.clock = Source::Rt,
            ("clock", "vm") => rtc.clock = Source::Vm,
            ("driftfix", "none") => {}
            ("driftfix", "slew") => {
                return Err(Stop::at(&given.place, "driftfix 'slew' is not available here"));
            }
            ("clock" | "driftfix", other) => {
                return Err(Stop::at(&given.place, format!("invalid option value '{other}'")));
            }
            _ => return Err(qapi::Error::invalid_parameter(key)).at(&given.place),
        }
    }
    _ = Value::Null;
    Ok(rtc)
}

/// `YYYY-MM-DD` or `YYYY-MM-DDThh:mm:ss` as seconds since 1970.
fn date(text: &str) -> Option<i64> {
    let (day, time) = text.split_once('T').unwrap_or((text, "0:0:0"));
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let all: Option<Vec<i64>> = text
            .split(by)
            .map(|n| n.parse().ok().filter(|_| n.bytes().all(|b| b.is_ascii_digit())))
            .collect();
        all?.try_into().ok()
    };
    let [year, month, day] = numbers(day, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let fits = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !fits {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that start in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The wall clock for a machine with this guest clock.
pub(crate) fn wall_clock(rtc: Rtc, guest: &Clock) -> WallClock {
    let host = host::realtime_ns();
    let start = match rtc.base {
        Base::Utc => host,
        Base::Localtime => host + host::local_offset_seconds() * SECOND,
        Base::Date(seconds) => seconds * SECOND,
    };
    match rtc.clock {
        Source::Host => {
            let offset = start - host;
            Arc::new(move || host::realtime_ns() + offset)
        }
        Source::Rt => {
            let began = host::monotonic_ns();
            Arc::new(move || {
                start.saturating_add_unsigned(host::monotonic_ns().saturating_sub(began))
            })
        }
        Source::Vm => {
            let (clock, began) = (guest.clone(), guest.now_ns());
            Arc::new(move || start.saturating_add_unsigned(clock.now_ns().saturating_sub(began)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(date("1970-01-01"), Some(0));
        assert_eq!(date("2006-06-17T16:01:21"), Some(1_150_560_081));
        assert_eq!(date("2000-02-29"), Some(951_782_400));
        assert_eq!(date("1969-12-31T23:59:59"), Some(-1));
        for wrong in ["", "foo", "2006-13-01", "2006-1", "2006-01-01T1:2", "+1-1-1", "9999999-1-1"]
        {
            assert_eq!(date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_clock_moves_from_its_base() {
        let given = |value: &str| Placed { place: "-rtc".into(), value: value.into() };
        let clock = Clock::manual();
        let rtc = parse(&given("base=1970-01-02,clock=vm")).expect("parses");
        let wall = wall_clock(rtc, &clock);
        assert_eq!(wall(), 86_400 * SECOND);
        assert!(parse(&given("base=foo")).is_err() && parse(&given("x=1")).is_err());
    }
}
