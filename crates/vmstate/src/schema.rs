//! The shape of saved state, for golden files and for `info state`.

use std::fmt::Write as _;

/// A record.
#[derive(Debug)]
pub struct StateSchema {
    /// Name in the stream.
    pub name: &'static str,
    /// Version that is written.
    pub version: u32,
    /// Oldest version that can be read.
    pub min_version: u32,
    /// Members in order.
    pub fields: &'static [FieldSchema],
}

/// A member of a record.
#[derive(Debug)]
pub struct FieldSchema {
    /// Name in the stream.
    pub name: &'static str,
    /// Its type as text.
    pub kind: fn() -> String,
    /// The schema of a record inside.
    pub nested: fn() -> Option<&'static StateSchema>,
    /// First version that has it (0: all).
    pub since: u32,
    /// Last version that has it (`u32::MAX`: all).
    pub until: u32,
}

impl StateSchema {
    /// The schema as text: one line per member, records inside indented.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text
    }

    fn write(&self, text: &mut String, depth: usize) {
        let pad = "  ".repeat(depth);
        let Self { name, version, min_version, .. } = self;
        _ = write!(text, "{pad}{name} version {version}");
        if min_version != version {
            _ = write!(text, " (reads {min_version})");
        }
        text.push('\n');
        if depth > 16 {
            return;
        }
        for field in self.fields {
            _ = write!(text, "{pad}  {}: {}", field.name, (field.kind)());
            if field.since > 0 {
                _ = write!(text, ", since {}", field.since);
            }
            if field.until < u32::MAX {
                _ = write!(text, ", until {}", field.until);
            }
            text.push('\n');
            if let Some(schema) = (field.nested)() {
                schema.write(text, depth + 2);
            }
        }
    }
}
