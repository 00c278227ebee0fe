//! Compressed clusters: raw deflate with a window of 4 KiB, or zstd.
//!
//! A compressed cluster is followed by bytes of its neighbour, so the end of its stream says where
//! it ends. What does not get smaller is not stored so. Levels are the libraries' own defaults.
//! Not here: where compressed clusters lie (`tables.rs`).
//! Source: qcow2 specification, "Compressed clusters", "Additional fields".

use std::io;

use block::invalid;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What compresses, and where to.
#[derive(Default)]
struct Packer {
    deflate: Option<Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

thread_local! {
    /// Tables of the compressors are large: they are made once for a thread.
    static PACKER: std::cell::RefCell<Packer> = std::cell::RefCell::default();
}

impl Packer {
    /// How long it gets in `out`, if it fits in there.
    fn run(&mut self, data: &[u8], zstd: bool) -> io::Result<Option<usize>> {
        // Room for all of what does not shrink: then nothing is left in a compressor at the end.
        let room = data.len() + data.len() / 8 + 256;
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let out = self.out.get_mut(..room).unwrap_or_default();
        if zstd {
            let packer = match self.zstd.take() {
                Some(packer) => packer,
                None => zstd::bulk::Compressor::new(0)?,
            };
            return Ok(self.zstd.insert(packer).compress_to_buffer(data, out).ok());
        }
        let new = || Compress::new_with_window_bits(Compression::default(), false, 12);
        let packer = self.deflate.get_or_insert_with(new);
        packer.reset();
        let status = packer.compress(data, out, FlushCompress::Finish);
        if !matches!(status, Ok(Status::StreamEnd)) {
            self.deflate = None;
            return Ok(None);
        }
        Ok(usize::try_from(packer.total_out()).ok())
    }
}

/// Compresses a cluster; `None` when it does not get smaller. Short data is filled with zeroes.
pub(super) fn pack(data: &[u8], cluster: u64, zstd: bool) -> io::Result<Option<Vec<u8>>> {
    let size = usize::try_from(cluster).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut whole;
    let data = if data.len() < size {
        whole = data.to_vec();
        whole.resize(size, 0);
        &whole[..]
    } else {
        data
    };
    if data.len() != size {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    PACKER.with_borrow_mut(|packer| {
        let len = packer.run(data, zstd)?.filter(|len| *len < size);
        Ok(len.and_then(|len| packer.out.get(..len)).map(<[u8]>::to_vec))
    })
}

/// The bytes of a compressed cluster.
pub(super) fn unpack(packed: &[u8], cluster: usize, zstd: bool) -> io::Result<Vec<u8>> {
    let damaged = || invalid("qcow2: a compressed cluster is damaged");
    let mut out = vec![0; cluster];
    if zstd {
        use std::io::Read as _;
        // Frame by frame, and never more than a cluster: what follows is the neighbour's.
        let mut reader = zstd::stream::read::Decoder::with_buffer(packed)?;
        reader.window_log_max(24)?;
        reader.read_exact(&mut out).map_err(|_| damaged())?;
        return Ok(out);
    }
    let mut unpacker = Decompress::new_with_window_bits(false, 12);
    // Bytes behind the end of the stream belong to the next cluster.
    let done = unpacker.decompress(packed, &mut out, FlushDecompress::Finish);
    if done.is_err() || unpacker.total_out() != cluster as u64 {
        return Err(damaged());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_told_again_and_again() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        })
        .take(65536)
        .collect();
        for size in [512, 4096, 65536] {
            for zstd in [false, true] {
                for _ in 0..3 {
                    assert!(pack(&noise[..size], size as u64, zstd).unwrap().is_none());
                    assert!(pack(&vec![1; size], size as u64, zstd).unwrap().is_some());
                }
            }
        }
    }

    #[test]
    fn clusters_come_back_and_damage_is_told() {
        let data: Vec<u8> = (0..65536u32).map(|n| u8::try_from(n / 97 % 251).unwrap()).collect();
        for zstd in [false, true] {
            let mut packed = pack(&data, 65536, zstd).unwrap().unwrap();
            // A neighbour's bytes.
            packed.extend([0xaa; 100]);
            assert!(unpack(&packed, 65536, zstd).unwrap() == data);
            assert!(unpack(&packed[..50], 65536, zstd).is_err());
            for at in 0..packed.len() {
                let mut bad = packed.clone();
                bad[at] ^= 0x55;
                _ = unpack(&bad, 65536, zstd);
            }
        }
    }
}
