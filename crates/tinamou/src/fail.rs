//! Ends of the program before the guest runs.

use std::sync::atomic::{AtomicBool, Ordering};

use qapi::Error;

/// Why the start ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Everything asked for was done (`help`, `-version`).
    Done,
    /// Another process said what was wrong; end with its status.
    Ended(u8),
    /// Something was wrong.
    Failed(Failure),
}

/// One line for a person: where and what, and a hint behind it; hints of the peer stand on a line of
/// their own, as there.
#[derive(Debug)]
pub(crate) struct Failure {
    place: Option<String>,
    text: String,
    hint: Option<String>,
    below: Option<String>,
}

static TIMESTAMPS: AtomicBool = AtomicBool::new(false);

/// Puts the time in front of messages from now on (`-msg timestamp=on`).
pub(crate) fn set_timestamps(on: bool) {
    TIMESTAMPS.store(on, Ordering::Relaxed);
}

/// Writes a message for a person to standard error.
pub(crate) fn say(text: &str) {
    if TIMESTAMPS.load(Ordering::Relaxed) {
        eprint!("{} {text}", time_text(host::realtime_ns()));
    } else {
        eprint!("{text}");
    }
}

/// Nanoseconds since 1970 as `2026-11-22T15:46:38.504052Z`.
fn time_text(ns: i64) -> String {
    let (seconds, part) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days, with eras of 400 years that start on a first of March.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let (d, m) =
        (in_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{y:04}-{m:02}-{d:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", part / 1000)
}

/// The result of every step of the start.
pub(crate) type Step<T> = Result<T, Stop>;

impl Failure {
    /// Whole sentences are the peer's hints, which stand below; others are our own.
    fn of(place: Option<String>, error: Error) -> Self {
        let (below, hint) = error.hint.into_iter().partition(|hint| hint.ends_with(['.', '?']));
        let one = |hints: Vec<String>| hints.into_iter().next();
        Self { place, text: error.desc, hint: one(hint), below: one(below) }
    }

    /// The text as it goes to standard error.
    pub(crate) fn text(&self, program: &str) -> String {
        let place = self.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let hint = self.hint.as_deref().map(|hint| hint.trim_end_matches(['.', '\n']));
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        let below = self.below.as_deref().map(|below| format!("{}\n", below.trim_end()));
        format!("{program}: {place}{}{hint}\n{}", self.text, below.unwrap_or_default())
    }
}

impl Stop {
    /// An error that no single option is to blame for.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed(Failure { place: None, text: text.into(), hint: None, below: None })
    }

    /// An error of an option.
    pub(crate) fn at(place: &str, text: impl Into<String>) -> Self {
        Self::Failed(Failure {
            place: Some(place.into()),
            text: text.into(),
            hint: None,
            below: None,
        })
    }

    /// The same with a hint in brackets behind it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Failed(failure) = &mut self {
            failure.hint = Some(hint.into());
        }
        self
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(Failure::of(None, error))
    }
}

/// Puts the option that is to blame in front of an error.
pub(crate) trait At<T> {
    /// Puts `place` in front.
    fn at(self, place: &str) -> Step<T>;
}

impl<T> At<T> for qapi::Result<T> {
    fn at(self, place: &str) -> Step<T> {
        self.map_err(|error| Stop::Failed(Failure::of(Some(place.to_owned()), error)))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hints_of_errors_stand_below() {
        use super::{At as _, Stop};
        let text = |stop| match stop {
            Stop::Failed(failure) => failure.text("p"),
            _ => String::new(),
        };
        let error = || qapi::Error::generic("no lock").with_hint("Is it used?");
        assert_eq!(text(Stop::from(error())), "p: no lock\nIs it used?\n");
        let at = Err::<(), _>(error()).at("-drive x").unwrap_err();
        assert_eq!(text(at), "p: -drive x: no lock\nIs it used?\n");
        assert_eq!(text(Stop::new("no").hint("own.")), "p: no (own)\n");
        let own = qapi::Error::generic("no model").with_hint("models: a, b");
        assert_eq!(text(Stop::from(own)), "p: no model (models: a, b)\n");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(super::time_text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(super::time_text(951_782_399_999_999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(super::time_text(1_150_560_081_000_001_000), "2006-06-17T16:01:21.000001Z");
    }
}
