//! Where the RAM of a memory map is: a few ranges, so that walks and fills look neither through the map
//! nor at reference counts.
//!
//! True of one view; the vCPU, which keeps that view, forgets all this with it.
//!
//! UNSAFE: none.

use std::sync::Arc;

use guest_ram::RamBlock;
use memory::FlatView;

/// Ranges kept per world; further ones are looked up in the view.
const SPANS: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    last: u64,
    /// Host address of the first byte.
    host: u64,
    readonly: bool,
    block: u16,
}

/// RAM at a physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// Host address of the byte.
    pub(crate) host: u64,
    /// Bytes from there to the end of the range.
    pub(crate) len: u64,
    /// Guest writes do not reach it.
    pub(crate) readonly: bool,
    /// Number of the block.
    pub(crate) block: u16,
}

/// The ranges of RAM seen so far in the views of both worlds, and their blocks.
#[derive(Default)]
pub(crate) struct Ram {
    spans: [Vec<Span>; 2],
    blocks: Vec<Arc<RamBlock>>,
}

impl Ram {
    /// A block by its number.
    pub(crate) fn block(&self, n: u16) -> Option<&Arc<RamBlock>> {
        self.blocks.get(usize::from(n))
    }

    fn number(&mut self, block: &Arc<RamBlock>) -> u16 {
        let known = self.blocks.iter().position(|b| Arc::ptr_eq(b, block));
        let n = known.unwrap_or_else(|| {
            self.blocks.push(Arc::clone(block));
            self.blocks.len() - 1
        });
        n as u16
    }

    /// RAM at `pa` in `view`, which is that of the secure world or the other one's.
    #[inline]
    pub(crate) fn at(&mut self, view: &FlatView, secure: bool, pa: u64) -> Option<At> {
        let spans = &self.spans[usize::from(secure)];
        match spans.iter().find(|s| s.start <= pa && pa <= s.last) {
            Some(s) => Some(At {
                host: s.host.wrapping_add(pa - s.start),
                len: (s.last - pa).saturating_add(1),
                readonly: s.readonly,
                block: s.block,
            }),
            None => self.look(view, secure, pa),
        }
    }

    #[cold]
    fn look(&mut self, view: &FlatView, secure: bool, pa: u64) -> Option<At> {
        let r = view.ram_at(pa)?;
        let (host, readonly) = (r.host as u64, r.readonly);
        let block = self.number(&r.block);
        let spans = &mut self.spans[usize::from(secure)];
        if spans.len() < SPANS {
            spans.push(Span {
                start: r.pa_base,
                last: pa.saturating_add(r.len - 1),
                host: host.wrapping_sub(pa.wrapping_sub(r.pa_base)),
                readonly,
                block,
            });
        }
        Some(At { host, len: r.len, readonly, block })
    }
}
