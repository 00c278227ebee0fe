//! Ends of the program before the guest runs.

use qapi::Error;

/// Why the start ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Everything asked for was done (`help`, `-version`).
    Done,
    /// Something was wrong.
    Failed(Failure),
}

/// One line for a person: where and what, and a hint.
#[derive(Debug)]
pub(crate) struct Failure {
    place: Option<String>,
    text: String,
    hint: Option<String>,
}

/// The result of every step of the start.
pub(crate) type Step<T> = Result<T, Stop>;

impl Failure {
    /// The text as it goes to standard error.
    pub(crate) fn text(&self, program: &str) -> String {
        let place = self.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let hint = self.hint.as_deref().map(|hint| hint.trim_end_matches(['.', '\n']));
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{program}: {place}{}{hint}\n", self.text)
    }
}

impl Stop {
    /// An error that no single option is to blame for.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed(Failure { place: None, text: text.into(), hint: None })
    }

    /// An error of an option.
    pub(crate) fn at(place: &str, text: impl Into<String>) -> Self {
        Self::Failed(Failure { place: Some(place.into()), text: text.into(), hint: None })
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
        Self::Failed(Failure { place: None, text: error.desc, hint: error.hint })
    }
}

/// Puts the option that is to blame in front of an error.
pub(crate) trait At<T> {
    /// Puts `place` in front.
    fn at(self, place: &str) -> Step<T>;
}

impl<T> At<T> for qapi::Result<T> {
    fn at(self, place: &str) -> Step<T> {
        self.map_err(|error| {
            let place = Some(place.to_owned());
            Stop::Failed(Failure { place, text: error.desc, hint: error.hint })
        })
    }
}
