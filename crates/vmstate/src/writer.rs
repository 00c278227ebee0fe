//! Writes values.

use crate::{Field, StateSchema, tag};

/// Collects the bytes of saved state.
#[derive(Default)]
pub struct StateWriter {
    bytes: Vec<u8>,
}

impl StateWriter {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stream.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes a named member.
    pub fn field<T: Field>(&mut self, name: &str, value: &T) {
        self.member(name);
        value.save(self);
    }

    /// Writes a named member that is there only `when` it has something to say.
    pub fn section<T: Field>(&mut self, name: &str, when: bool, value: &T) {
        self.member(name);
        if when {
            self.byte(tag::SOME);
            value.save(self);
        } else {
            self.byte(tag::NONE);
        }
    }

    /// Writes a record whose members `body` writes.
    pub fn record(&mut self, schema: &StateSchema, body: impl FnOnce(&mut Self)) {
        self.byte(tag::RECORD);
        self.name(schema.name);
        self.bytes.extend(schema.version.to_le_bytes());
        let at = self.bytes.len();
        self.length(0);
        body(self);
        let length = u32::try_from(self.bytes.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(slot) = self.bytes.get_mut(at..at + 4) {
            slot.copy_from_slice(&length.to_le_bytes());
        }
    }

    fn member(&mut self, name: &str) {
        self.byte(tag::MEMBER);
        self.name(name);
    }

    fn name(&mut self, name: &str) {
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.byte(length);
        self.bytes.extend(name.as_bytes().iter().take(usize::from(length)));
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn length(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_le_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }
}
