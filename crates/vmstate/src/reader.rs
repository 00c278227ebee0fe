//! Reads values; nothing in a stream can make it panic or allocate more than the stream's length
//! times a small factor.

use crate::{Field, LoadError, StateSchema, tag};

/// Most records inside records.
const MAX_DEPTH: u32 = 32;

/// Reads saved state.
pub struct StateReader<'a> {
    rest: &'a [u8],
    depth: u32,
}

impl<'a> StateReader<'a> {
    /// Reads `bytes` from the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    /// Bytes that are left in the innermost record.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the reading; bytes that are left are an error.
    pub fn finish(self) -> Result<(), LoadError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(LoadError::Trailing(left)),
        }
    }

    /// Reads the member `name`; `max` bounds the elements of a list.
    pub fn field<T: Field>(&mut self, name: &str, max: Option<usize>) -> Result<T, LoadError> {
        self.member(name)?;
        T::load(self, max).map_err(|error| error.at(name))
    }

    /// Reads the member `name` that may be absent.
    pub fn section<T: Field>(
        &mut self,
        name: &str,
        max: Option<usize>,
    ) -> Result<Option<T>, LoadError> {
        self.member(name)?;
        if self.presence()? {
            T::load(self, max).map(Some).map_err(|e| e.at(name))
        } else {
            Ok(None)
        }
    }

    /// Reads a record: checks name and version, then `body` reads the members.
    pub fn record<T>(
        &mut self,
        schema: &StateSchema,
        body: impl FnOnce(&mut Self, u32) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        self.tag(tag::RECORD, "a record")?;
        self.expect_name(schema.name)?;
        let version = self.u32()?;
        let wrap = |error: LoadError| error.at(schema.name);
        if !(schema.min_version..=schema.version).contains(&version) {
            return Err(wrap(LoadError::UnknownVersion(version)));
        }
        let length = self.length()?;
        let (inside, behind) =
            self.rest.split_at_checked(length).ok_or_else(|| wrap(LoadError::Truncated))?;
        if self.depth >= MAX_DEPTH {
            return Err(wrap(LoadError::Invalid("too many nested records")));
        }
        let mut inner = Self { rest: inside, depth: self.depth + 1 };
        let value = body(&mut inner, version).map_err(wrap)?;
        inner.finish().map_err(wrap)?;
        self.rest = behind;
        Ok(value)
    }

    fn member(&mut self, name: &str) -> Result<(), LoadError> {
        self.tag(tag::MEMBER, "a member").map_err(|error| error.at(name))?;
        self.expect_name(name)
    }

    fn expect_name(&mut self, name: &str) -> Result<(), LoadError> {
        let length = usize::from(self.byte()?);
        let found = self.raw(length)?;
        let wanted = name.as_bytes().get(..name.len().min(usize::from(u8::MAX)));
        if Some(found) == wanted {
            return Ok(());
        }
        let found = String::from_utf8_lossy(found).into_owned();
        Err(LoadError::Mismatch { expected: name.to_owned(), found })
    }

    pub(crate) fn tag(&mut self, wanted: u8, what: &str) -> Result<(), LoadError> {
        let found = self.byte()?;
        if found == wanted {
            return Ok(());
        }
        let found = format!("tag {found:#04x}");
        Err(LoadError::Mismatch { expected: what.to_owned(), found })
    }

    pub(crate) fn presence(&mut self) -> Result<bool, LoadError> {
        match self.byte()? {
            tag::SOME => Ok(true),
            tag::NONE => Ok(false),
            found => Err(LoadError::Mismatch {
                expected: "an optional value".into(),
                found: format!("tag {found:#04x}"),
            }),
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, LoadError> {
        let (first, rest) = self.rest.split_first().ok_or(LoadError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn raw(&mut self, length: usize) -> Result<&'a [u8], LoadError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(LoadError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, LoadError> {
        let bytes = self.raw(4)?.try_into().map_err(|_| LoadError::Truncated)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn length(&mut self) -> Result<usize, LoadError> {
        usize::try_from(self.u32()?).map_err(|_| LoadError::Truncated)
    }
}
