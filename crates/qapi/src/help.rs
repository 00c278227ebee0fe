//! Help texts from type information, in the form of `-device X,help`.

use crate::{Kind, Member, TypeInfo};

/// One line of an options list: `  name=<type>          - doc (default: …)`.
pub fn option_lines(members: &[&Member]) -> Vec<String> {
    let mut sorted: Vec<_> = members.iter().collect();
    // As QEMU sorts: by the line, where '-' comes before '='.
    sorted.sort_by_key(|member| format!("{}=", member.name));
    sorted.into_iter().map(|member| option_line(member)).collect()
}

fn option_line(member: &Member) -> String {
    let head = format!("  {}=<{}>", member.name, type_name((member.ty)()));
    let doc = doc_of(member);
    let default = member.default.map(|text| format!(" (default: {text})")).unwrap_or_default();
    if doc.is_empty() && default.is_empty() {
        return head;
    }
    // QEMU pads name and type to 24 columns behind the indent and has " - " behind that.
    format!("{head:<24} - {doc}{default}")
}

fn doc_of(member: &Member) -> String {
    if !member.doc.is_empty() {
        return member.doc.trim_end_matches('.').to_owned();
    }
    let info = (member.ty)();
    match info.kind {
        Kind::Bool => "on/off".into(),
        Kind::Enum(_) => info.words().join("/"),
        _ => String::new(),
    }
}

fn type_name(info: &TypeInfo) -> String {
    match info.kind {
        Kind::Array(element) => format!("list of {}", type_name(element())),
        _ => info.name.to_owned(),
    }
}

/// `NAME options:` and one line per member, or the sentence that there are none.
pub fn member_lines(name: &str, info: &TypeInfo) -> String {
    let members = info.members();
    if members.is_empty() {
        return format!("There are no options for {name}.\n");
    }
    let mut text = format!("{name} options:\n");
    for line in option_lines(&members) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}
