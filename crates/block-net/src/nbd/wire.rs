//! What goes over the wire: the handshake, requests, replies.
//!
//! Numbers are big endian. The handshake asks for structured replies and a metadata context (`base:allocation`), then for
//! the export (`NBD_OPT_GO`, or the old `NBD_OPT_EXPORT_NAME` where the server knows no better).
//! A reply comes as one simple message or as chunks, the last of which says so.
//! Source: the NBD protocol description, "Newstyle negotiation", "Transmission", "Block status".

use std::io::{self, Read, Write};

use block::{invalid, unsupported};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE: u32 = 0x6744_6698;
const STRUCTURED: u32 = 0x668e_33ef;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED: u32 = 8;
const OPT_SET_META: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const ERR_UNSUP: u32 = REP_ERROR + 1;

/// Transmission flags.
pub(super) mod flag {
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;
}

/// Commands.
pub(super) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
    /// Flag of WRITE_ZEROES: keep the space.
    pub(crate) const NO_HOLE: u16 = 2;
    /// Flag of BLOCK_STATUS: one extent is enough.
    pub(crate) const ONE: u16 = 8;
}

/// Most bytes of one request or one chunk.
pub(super) const MOST: u32 = 32 << 20;
/// Most bytes of a reply to an option.
const OPTION_MOST: u32 = 1 << 16;

/// What the server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Bytes of the disk.
    pub len: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Replies come in chunks.
    pub structured: bool,
    /// Context of `base:allocation`.
    pub context: Option<u32>,
    /// Smallest and largest request.
    pub block: (u32, u32),
}

fn u16_of(from: &mut dyn Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}
fn u32_of(from: &mut dyn Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}
fn u64_of(from: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn bytes_of(from: &mut dyn Read, len: u32, most: u32) -> io::Result<Vec<u8>> {
    if len > most {
        return Err(invalid("the server sends too much"));
    }
    // Grows as bytes come, so that a length alone costs nothing.
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(len) {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn option(to: &mut dyn Write, option: u32, data: &[u8]) -> io::Result<()> {
    let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend(data);
    to.write_all(&out)
}

/// A reply to an option: its type and data.
fn option_reply(from: &mut dyn Read, asked: u32) -> io::Result<(u32, Vec<u8>)> {
    if u64_of(from)? != REPLY_MAGIC {
        return Err(invalid("Unexpected option reply magic"));
    }
    if u32_of(from)? != asked {
        return Err(invalid("Unexpected option type in reply"));
    }
    let (kind, len) = (u32_of(from)?, u32_of(from)?);
    Ok((kind, bytes_of(from, len, OPTION_MOST)?))
}

/// A stream that both sides of the handshake use.
pub trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// The metadata context that tells what is there.
pub const ALLOCATION: &str = "base:allocation";

/// Negotiates an export; `query` is the metadata context that extents come from.
///
/// # Errors
/// The server refuses, has no such export, or speaks something else.
pub fn handshake(stream: &mut dyn Both, name: &str, query: &str) -> io::Result<Export> {
    if u64_of(&mut *stream)? != MAGIC {
        return Err(invalid("Bad initial magic received"));
    }
    let mut export = Export { block: (1, MOST), ..Export::default() };
    match u64_of(&mut *stream)? {
        OLD_MAGIC => {
            export.len = u64_of(&mut *stream)?;
            _ = u16_of(&mut *stream)?;
            export.flags = u16_of(&mut *stream)?;
            bytes_of(&mut *stream, 124, 124)?;
            return if name.is_empty() {
                Ok(export)
            } else {
                Err(invalid("Server does not support non-empty export names"))
            };
        }
        OPTION_MAGIC => {}
        _ => return Err(invalid("Bad server magic received")),
    }
    let flags = u16_of(&mut *stream)?;
    let fixed = flags & 1 != 0;
    let no_zeroes = flags & 2 != 0;
    stream.write_all(&u32::from(flags & 3).to_be_bytes())?;
    if fixed {
        option(&mut *stream, OPT_STRUCTURED, &[])?;
        export.structured = option_reply(&mut *stream, OPT_STRUCTURED)?.0 == REP_ACK;
        if export.structured {
            export.context = context(&mut *stream, name, query)?;
        }
        if go(&mut *stream, name, &mut export)? {
            return Ok(export);
        }
    }
    option(&mut *stream, OPT_EXPORT_NAME, name.as_bytes())?;
    export.len = u64_of(&mut *stream)?;
    export.flags = u16_of(&mut *stream)?;
    if !no_zeroes {
        bytes_of(&mut *stream, 124, 124)?;
    }
    Ok(export)
}

/// Asks for a metadata context; its number, if the server has it.
fn context(stream: &mut dyn Both, name: &str, query: &str) -> io::Result<Option<u32>> {
    let query = query.as_bytes();
    let len = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
    let mut data = len(name.len()).to_vec();
    data.extend(name.as_bytes());
    data.extend(1u32.to_be_bytes());
    data.extend(len(query.len()));
    data.extend(query);
    option(&mut *stream, OPT_SET_META, &data)?;
    let mut found = None;
    for _ in 0..64 {
        let (kind, data) = option_reply(&mut *stream, OPT_SET_META)?;
        match kind {
            REP_META if data.get(4..) == Some(query) => found = Some(u32_of(&mut data.as_slice())?),
            REP_META => {}
            REP_ACK => return Ok(found),
            kind if kind & REP_ERROR != 0 => return Ok(None),
            _ => return Err(invalid("Unexpected reply type")),
        }
    }
    Err(invalid("the server never ends its reply"))
}

/// `NBD_OPT_GO`; `false`: the server does not know it.
fn go(stream: &mut dyn Both, name: &str, export: &mut Export) -> io::Result<bool> {
    let mut data = u32::try_from(name.len()).unwrap_or(0).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    // One piece of information: sizes of requests.
    data.extend([0, 1, 0, 3]);
    option(&mut *stream, OPT_GO, &data)?;
    for _ in 0..64 {
        let (kind, data) = option_reply(&mut *stream, OPT_GO)?;
        match kind {
            REP_ACK => return Ok(true),
            ERR_UNSUP => return Ok(false),
            REP_INFO => info(&data, export)?,
            kind if kind & REP_ERROR != 0 => {
                let text = String::from_utf8_lossy(&data).into_owned();
                let text = if text.is_empty() {
                    format!("Requested export not available (error {kind:#x})")
                } else {
                    format!("Requested export not available\nserver reported: {text}")
                };
                return Err(unsupported(text));
            }
            _ => return Err(invalid("Unexpected reply type")),
        }
    }
    Err(invalid("the server never ends its reply"))
}

fn info(data: &[u8], export: &mut Export) -> io::Result<()> {
    let mut rest = data;
    match u16_of(&mut rest)? {
        0 => {
            export.len = u64_of(&mut rest)?;
            export.flags = u16_of(&mut rest)?;
        }
        3 => {
            let (min, _, max) = (u32_of(&mut rest)?, u32_of(&mut rest)?, u32_of(&mut rest)?);
            if !min.is_power_of_two() || min > 1 << 16 || max < min {
                return Err(invalid("server offers nonsense as block sizes"));
            }
            export.block = (min, max.min(MOST));
        }
        _ => {}
    }
    Ok(())
}

/// The bytes of a request's head.
pub(super) fn request(command: u16, flags: u16, handle: u64, at: u64, len: u32) -> Vec<u8> {
    let mut out = REQUEST.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(handle.to_be_bytes());
    out.extend(at.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

/// A part of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes read at a place of the disk.
    Data(u64, Vec<u8>),
    /// Zeroes at a place, so many.
    Hole(u64, u32),
    /// A context's extents: length and flags of each.
    Status(u32, Vec<(u32, u32)>),
    /// It went wrong.
    Error(u32),
    /// Nothing more to say.
    None,
}

/// One message of the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whose request it answers.
    pub handle: u64,
    /// The last one for it.
    pub last: bool,
    /// What it says.
    pub part: Part,
}

/// Reads one message. `reads` gives place and length of the request behind a handle if it is a
/// read, because a simple reply does not tell how long it is.
///
/// # Errors
/// The stream ended or makes no sense.
pub fn reply(from: &mut dyn Read, reads: &dyn Fn(u64) -> Option<(u64, u32)>) -> io::Result<Reply> {
    match u32_of(&mut *from)? {
        SIMPLE => {
            let error = u32_of(&mut *from)?;
            let handle = u64_of(&mut *from)?;
            let part = match reads(handle) {
                _ if error != 0 => Part::Error(error),
                Some((at, len)) => Part::Data(at, bytes_of(from, len, MOST)?),
                None => Part::None,
            };
            Ok(Reply { handle, last: true, part })
        }
        STRUCTURED => {
            let (flags, kind) = (u16_of(&mut *from)?, u16_of(&mut *from)?);
            let (handle, len) = (u64_of(&mut *from)?, u32_of(&mut *from)?);
            let data = bytes_of(from, len, MOST + 1024)?;
            Ok(Reply { handle, last: flags & 1 != 0, part: chunk(kind, data)? })
        }
        _ => Err(invalid("invalid magic of a reply")),
    }
}

fn chunk(kind: u16, data: Vec<u8>) -> io::Result<Part> {
    let mut rest = data.as_slice();
    Ok(match kind {
        0 => Part::None,
        1 => {
            let at = u64_of(&mut rest)?;
            Part::Data(at, rest.to_vec())
        }
        2 => Part::Hole(u64_of(&mut rest)?, u32_of(&mut rest)?),
        5 => {
            let context = u32_of(&mut rest)?;
            let mut all = Vec::new();
            while !rest.is_empty() {
                all.push((u32_of(&mut rest)?, u32_of(&mut rest)?));
            }
            Part::Status(context, all)
        }
        kind if kind & 0x8000 != 0 => Part::Error(u32_of(&mut rest)?.max(1)),
        _ => return Err(invalid("unexpected reply type")),
    })
}

/// The system's error for one of the protocol, whose numbers are Linux's but for one.
pub(super) fn error(number: u32) -> io::Error {
    let number = match number {
        1 | 5 | 12 | 22 | 28 | 75 | 95 => number,
        108 => 108,
        _ => 22,
    };
    io::Error::from_raw_os_error(i32::try_from(number).unwrap_or(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_both_kinds_are_read() {
        let mut simple = SIMPLE.to_be_bytes().to_vec();
        simple.extend(0u32.to_be_bytes());
        simple.extend(7u64.to_be_bytes());
        simple.extend([1, 2, 3]);
        let found = reply(&mut simple.as_slice(), &|_| Some((40, 3))).unwrap();
        assert_eq!(found, Reply { handle: 7, last: true, part: Part::Data(40, vec![1, 2, 3]) });
        assert!(reply(&mut &simple[..17], &|_| Some((40, 3))).is_err());
        let mut chunked = STRUCTURED.to_be_bytes().to_vec();
        chunked.extend([0, 0, 0, 5]);
        chunked.extend(9u64.to_be_bytes());
        chunked.extend(12u32.to_be_bytes());
        chunked.extend([0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]);
        let found = reply(&mut chunked.as_slice(), &|_| None).unwrap();
        assert_eq!(found.part, Part::Status(1, vec![(4096, 3)]));
        // A length that nobody can mean.
        chunked[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(reply(&mut chunked.as_slice(), &|_| None).is_err());
    }
}
