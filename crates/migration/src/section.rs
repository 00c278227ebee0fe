//! Named parts of a stream.
//!
//! Format (little-endian): a tag byte, the length of the name as one byte, the name, the length of
//! the body as `u32`, the body. The tag [`Kind::Ram`] has the block's length as `u64` in place of a
//! body; its pages follow ([`crate::ram`]). [`Kind::End`] ends the stream.

use std::io;

use crate::seal::{Reader, Writer};
use crate::{Result, StreamError};

/// Most bytes of a body. A GICv3 with 512 CPUs has some 2 MiB.
pub const MOST: usize = 64 << 20;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What the machine is.
    Machine = 1,
    /// A device.
    Device = 2,
    /// A CPU.
    Cpu = 3,
    /// A block of RAM.
    Ram = 4,
    /// Nothing follows.
    End = 5,
    /// A network back end.
    Link = 6,
}

impl Kind {
    fn of(tag: u8) -> Option<Kind> {
        [Kind::Machine, Kind::Device, Kind::Cpu, Kind::Ram, Kind::End, Kind::Link]
            .into_iter()
            .find(|kind| *kind as u8 == tag)
    }
}

/// A part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its bytes; of RAM the block's length.
    pub body: Vec<u8>,
}

/// Writes a part.
///
/// # Errors
/// A name over 255 bytes, a body over [`MOST`], or what storing says.
pub fn write(w: &mut Writer<'_>, kind: Kind, name: &str, body: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    if body.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    w.write(&[kind as u8, u8::try_from(name.len()).map_err(too_long)?])?;
    w.write(name.as_bytes())?;
    w.write(&u32::try_from(body.len()).map_err(too_long)?.to_le_bytes())?;
    w.write(body)
}

/// Reads the next part.
///
/// # Errors
/// The stream is damaged.
pub fn read(r: &mut Reader<'_>) -> Result<Section> {
    let mut head = [0; 2];
    r.read(&mut head)?;
    let [tag, length] = head;
    let kind = Kind::of(tag).ok_or(StreamError::Damaged("an unknown part"))?;
    let mut name = vec![0; usize::from(length)];
    r.read(&mut name)?;
    let name = String::from_utf8(name).map_err(|_| StreamError::Damaged("a name"))?;
    let mut length = [0; 4];
    r.read(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MOST {
        return Err(StreamError::Damaged("a part is too long"));
    }
    // Grows with what is really there.
    let mut body = Vec::new();
    while body.len() < length {
        let from = body.len();
        body.resize(length.min(from + (1 << 20)), 0);
        r.read(body.get_mut(from..).unwrap_or_default())?;
    }
    Ok(Section { kind, name, body })
}
