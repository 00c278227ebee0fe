//! The system's words for errors.

use std::io;

/// What went wrong, without Rust's "(os error N)".
#[must_use]
pub fn reason(error: &io::Error) -> String {
    // Errors that a layer of this program made have no number: the system's words for them.
    if error.raw_os_error().is_none() && error.get_ref().is_none() {
        let words = match error.kind() {
            io::ErrorKind::StorageFull => "No space left on device",
            io::ErrorKind::InvalidInput => "Invalid argument",
            io::ErrorKind::Unsupported => "Operation not supported",
            io::ErrorKind::PermissionDenied => "Permission denied",
            io::ErrorKind::FileTooLarge => "File too large",
            io::ErrorKind::NotFound => "No such file or directory",
            io::ErrorKind::Interrupted => "Interrupted system call",
            io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => "Input/output error",
            _ => "",
        };
        if !words.is_empty() {
            return words.to_owned();
        }
    }
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    }
}
