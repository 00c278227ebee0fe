//! Options of nodes: taking members out of a value by type.
//!
//! What is left when a driver took its own is unexpected; that is how mistakes are found. Values
//! come from JSON with types or from key=value text without; the source decides what is accepted.
//! Source: QEMU's manual, `-blockdev`.

use qapi::{Qapi, Result, Source, Value};

/// Takes a member of type `T`.
///
/// # Errors
/// It has another type.
pub fn take<T: Qapi>(options: &mut Value, name: &str, source: Source) -> Result<Option<T>> {
    let Some(value) = options.take(name) else { return Ok(None) };
    T::from_value(value, source).map(Some).map_err(|error| error.within(name))
}

/// Takes a truth value; `other` when it is absent.
///
/// # Errors
/// It is no truth value.
pub fn flag(options: &mut Value, name: &str, source: Source, other: bool) -> Result<bool> {
    Ok(take::<bool>(options, name, source)?.unwrap_or(other))
}

/// Takes and checks what makes no difference here beyond being one of a list of words.
pub(crate) fn word(
    options: &mut Value,
    name: &str,
    words: &[&'static str],
) -> Result<Option<String>> {
    let Some(value) = options.take(name) else { return Ok(None) };
    let Some(text) = value.as_str() else { return Err(qapi::Error::wrong_type(name, "string")) };
    if !words.contains(&text) {
        return Err(qapi::Error::not_accepted(name, text, words.iter().copied()));
    }
    Ok(Some(text.to_owned()))
}
