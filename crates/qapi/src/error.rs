//! The error that reaches a person or a management program.

use std::fmt;

/// The error classes of QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything that has no class of its own.
    GenericError,
    /// No such command, or not now.
    CommandNotFound,
    /// A device is there but not active.
    DeviceNotActive,
    /// No such device.
    DeviceNotFound,
    /// KVM lacks a capability.
    KvmMissingCap,
}

impl Class {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
        }
    }
}

/// An error with its class, one line of description and an optional hint for a person.
///
/// Errors about a parameter are made where the parameter's name is not known; every level that
/// the error passes on its way out puts its own name in front with [`Error::within`].
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// The class.
    pub class: Class,
    /// What was wrong, without the parameter when `frame` is set.
    pub desc: String,
    /// What would be right; printed to people only.
    pub hint: Option<String>,
    frame: Option<Box<Frame>>,
}

/// The text around a parameter's path.
#[derive(Clone, Debug, PartialEq)]
struct Frame {
    before: &'static str,
    path: String,
    after: String,
    /// Only the innermost name is said; elements of lists have none.
    local: bool,
    /// The path has all the names it will have.
    whole: bool,
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given class.
    pub fn new(class: Class, desc: impl Into<String>) -> Self {
        Self { class, desc: desc.into(), hint: None, frame: None }
    }

    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(Class::GenericError, desc)
    }

    /// The same error with a hint for a person.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with text in front of its description.
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Self {
        self.desc = format!("{prefix}{}", self.desc);
        self.frame = None;
        self
    }

    fn framed(before: &'static str, path: &str, after: String) -> Self {
        let frame = Frame { before, path: path.to_owned(), after, local: false, whole: false };
        let desc = frame.text();
        Self { class: Class::GenericError, desc, hint: None, frame: Some(Box::new(frame)) }
    }

    /// Puts a member's name (or `[i]`) in front of the parameter path.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        if let Some(frame) = self.frame.as_mut().filter(|frame| !frame.whole) {
            frame.whole = frame.local;
            let name = if frame.local && name.starts_with('[') { "" } else { name };
            frame.path = match frame.path.as_str() {
                "" => name.to_owned(),
                path if path.starts_with('[') => format!("{name}{path}"),
                path => format!("{name}.{path}"),
            };
            self.desc = frame.text();
        }
        self
    }

    /// The dotted path of the parameter that the error is about.
    pub fn parameter(&self) -> Option<&str> {
        self.frame.as_ref().map(|frame| frame.path.as_str())
    }

    /// `Parameter 'x' is missing`.
    pub fn missing(name: &str) -> Self {
        Self::framed("Parameter '", name, "' is missing".into())
    }

    /// `Parameter 'x' is unexpected`.
    pub fn unexpected(name: &str) -> Self {
        Self::framed("Parameter '", name, "' is unexpected".into())
    }

    /// `Parameter 'x' expects WHAT`.
    pub fn expects(name: &str, what: &str) -> Self {
        Self::framed("Parameter '", name, format!("' expects {what}"))
    }

    /// `Invalid parameter type for 'x', expected: TYPE`.
    pub fn wrong_type(name: &str, expected: &str) -> Self {
        Self::framed("Invalid parameter type for '", name, format!("', expected: {expected}"))
    }

    /// `Parameter 'x' does not accept value 'V'`; the hint lists the accepted values.
    pub fn not_accepted<'a>(
        name: &str,
        value: &str,
        accepted: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let accepted: Vec<&str> = accepted.into_iter().collect();
        let after = format!("' does not accept value '{value}'");
        let mut error = Self::framed("Parameter '", name, after);
        if let Some(frame) = &mut error.frame {
            frame.local = true;
            frame.whole = !name.is_empty();
        }
        if accepted.is_empty() || accepted.len() > 24 {
            return error;
        }
        error.with_hint(format!("Accepted values: {}", accepted.join(", ")))
    }

    /// `Invalid parameter 'x'`.
    pub fn invalid_parameter(name: &str) -> Self {
        Self::framed("Invalid parameter '", name, "'".into())
    }

    /// `Property 'type.x' not found`.
    pub fn property_not_found(type_name: &str, property: &str) -> Self {
        Self::generic(format!("Property '{type_name}.{property}' not found"))
    }

    /// `Device 'x' not found`.
    pub fn device_not_found(name: &str) -> Self {
        Self::new(Class::DeviceNotFound, format!("Device '{name}' not found"))
    }

    /// `The command x has not been found`.
    pub fn command_not_found(name: &str) -> Self {
        Self::new(Class::CommandNotFound, format!("The command {name} has not been found"))
    }

    /// `Duplicate ID 'x' for KIND`.
    pub fn duplicate_id(id: &str, kind: &str) -> Self {
        Self::generic(format!("Duplicate ID '{id}' for {kind}"))
    }

    /// `Parameter 'id' expects an identifier`, with the rule as hint.
    pub fn not_an_identifier() -> Self {
        Self::expects("id", "an identifier").with_hint(
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
        )
    }
}

impl Frame {
    fn text(&self) -> String {
        let path = if self.path.is_empty() { "null" } else { &self.path };
        format!("{}{path}{}", self.before, self.after)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_grows_from_the_inside() {
        let error = Error::missing("out").within("data").within("backend");
        assert_eq!(error.desc, "Parameter 'backend.data.out' is missing");
        let error = Error::wrong_type("", "string").within("[0]").within("enable");
        assert_eq!(error.desc, "Invalid parameter type for 'enable[0]', expected: string");
    }

    #[test]
    fn path_without_a_name_is_null() {
        let error = Error::not_accepted("", "foo", ["oob"]).within("type").within("backend");
        assert_eq!(error.desc, "Parameter 'type' does not accept value 'foo'");
        let error = Error::not_accepted("", "foo", ["oob"]).within("[0]").within("enable");
        assert_eq!(error.desc, "Parameter 'null' does not accept value 'foo'");
    }
}
