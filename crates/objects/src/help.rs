//! `-object TYPE,help`: properties in QOM's words, which differ from those of devices.

use device::ObjectClass;
use qapi::{Kind, TypeInfo};

/// QOM's name of a property's type.
#[must_use]
pub fn type_name(info: &TypeInfo) -> &'static str {
    match info.kind {
        Kind::Int | Kind::Size | Kind::Array(_) => "int",
        Kind::Str if info.name == "str" => "string",
        _ => info.name,
    }
}

/// The help text of a type.
#[must_use]
pub fn help(class: &ObjectClass) -> String {
    let mut members = (class.props)().members();
    if members.is_empty() {
        return format!("There are no options for {}.\n", class.name);
    }
    // As the peer sorts: by the line, where '-' comes before '='.
    members.sort_by_key(|m| format!("{}=", m.name));
    let mut text = format!("{} options:\n", class.name);
    for member in members {
        let head = format!("  {}=<{}>", member.name, type_name((member.ty)()));
        let doc = member.doc.trim_end_matches('.');
        text.push_str(&if doc.is_empty() { head } else { format!("{head:<24} - {doc}") });
        text.push('\n');
    }
    text
}
