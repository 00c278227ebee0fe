//! Translated code by physical page.
//!
//! A [`PageCode`] holds the entry points of one page of RAM in one mode; code is position independent,
//! so a page mapped at many addresses is translated once. Pages are named by their host address: two
//! guest addresses of the same RAM share code, and another RAM at the same guest address does not.
//!
//! The code area is a ring of segments. When the next one holds old code, that generation goes: every
//! page with a block in it loses all its blocks (jumps are linked within a page only, so nothing else
//! leads there), with all vCPUs outside. `tb-size` bounds the area; tables of entries count too, against
//! a bound of their own. Translation takes one lock.
//!
//! UNSAFE: writes the code area through its writable view, under the lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use guest_ram::RamBlock;
use host::{DualMapping, HUGE};
use jit_ir::Block;
use jit_ir::backend::{CodeBuf, CodeFull, Runtime};
use rustc_hash::FxHashMap;

/// Segments of the code area, if it is large enough.
const SEGMENTS: usize = 8;
/// No segment is smaller: the largest block must fit.
const MIN_SEGMENT: usize = 256 << 10;
/// Tables of entries that are always allowed.
const MIN_TABLES: usize = 1024;

/// A page of RAM.
#[derive(Clone)]
pub(crate) struct RamPage {
    /// Host address of its first byte.
    pub(crate) host: u64,
    /// The block it is in, and where.
    pub(crate) block: Weak<RamBlock>,
    pub(crate) offset: u64,
}

/// Entry points of one page in one mode.
pub(crate) struct PageCode {
    pub(crate) ram: RamPage,
    /// Mode key with the page's code attribute.
    pub(crate) key: u64,
    /// Offset of each instruction's block from the code base (native) or its number + 1 (interpreter);
    /// 0 = not translated.
    pub(crate) entries: Box<[AtomicU32]>,
    /// Which 64-byte lines blocks were made from.
    lines: AtomicU64,
    /// The segment whose list it was put on last, + 1.
    listed: AtomicU32,
    /// How often its blocks were dropped for a write, and writes since that met no block.
    drops: AtomicU32,
    quiet: AtomicU32,
}

/// A page whose code was dropped this often stays protected: to protect it again costs more than to notice
/// each write…
const MIXED: u32 = 4;
/// … until that many writes met no code.
const QUIET: u32 = 1024;

impl PageCode {
    fn new(ram: RamPage, key: u64) -> Arc<Self> {
        let entries = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let zero = || AtomicU32::new(0);
        let (listed, drops, quiet) = (zero(), zero(), zero());
        Arc::new(Self { ram, key, entries, lines: AtomicU64::new(0), listed, drops, quiet })
    }

    pub(crate) fn entry(&self, offset: u64) -> &AtomicU32 {
        &self.entries[(offset >> 2) as usize & 1023]
    }

    fn mark_lines(&self, start: u32, len: u32) {
        let (first, last) = (start >> 6, (start + len.max(1) - 1).min(4095) >> 6);
        for n in first..=last {
            self.lines.fetch_or(1 << n, Ordering::Relaxed);
        }
    }

    /// Whether there are blocks; writes to the page are noticed then.
    pub(crate) fn has_blocks(&self) -> bool {
        self.lines.load(Ordering::Relaxed) != 0
    }

    fn touches(&self, offset: u64, len: u64) -> bool {
        let last = (offset + len.max(1) - 1).min(4095) >> 6;
        (offset >> 6..=last).any(|n| self.lines.load(Ordering::Relaxed) >> n & 1 != 0)
    }

    fn drop_blocks(&self) {
        // Blocks begin in lines that they were made from, 16 instructions each.
        let mut lines = self.lines.swap(0, Ordering::Relaxed);
        while lines != 0 {
            let n = lines.trailing_zeros() as usize;
            lines &= lines - 1;
            for e in self.entries.iter().skip(16 * n).take(16) {
                e.store(0, Ordering::Release);
            }
        }
    }
}

/// Which pages, by host address, hold translated code: a bitmap hashed by page number. A set bit only
/// makes writes take the slow path, so collisions are harmless as long as no bit is taken away that
/// another page needs: pages that lie too far apart keep theirs.
pub(crate) struct CodePages {
    words: Box<[AtomicU64]>,
    /// Lowest and highest page number seen.
    seen: (AtomicU64, AtomicU64),
}

const CODE_PAGE_WORDS: usize = 1 << 16;

impl CodePages {
    pub(crate) fn new() -> Self {
        let words = (0..CODE_PAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { words, seen: (AtomicU64::new(u64::MAX), AtomicU64::new(0)) }
    }
    fn place(&self, page: u64) -> (&AtomicU64, u64) {
        let n = page >> 12;
        (&self.words[(n >> 6) as usize & (CODE_PAGE_WORDS - 1)], 1 << (n & 63))
    }
    pub(crate) fn contains(&self, page: u64) -> bool {
        let (w, bit) = self.place(page);
        w.load(Ordering::SeqCst) & bit != 0
    }
    /// True if it was not there.
    pub(crate) fn add(&self, page: u64) -> bool {
        self.seen.0.fetch_min(page >> 12, Ordering::Relaxed);
        self.seen.1.fetch_max(page >> 12, Ordering::Relaxed);
        let (w, bit) = self.place(page);
        w.fetch_or(bit, Ordering::SeqCst) & bit == 0
    }
    pub(crate) fn remove(&self, page: u64) {
        let (low, high) =
            (self.seen.0.load(Ordering::Relaxed), self.seen.1.load(Ordering::Relaxed));
        if high.saturating_sub(low) < 64 * CODE_PAGE_WORDS as u64 {
            let (w, bit) = self.place(page);
            w.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

/// Numbers for `info jit`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) blocks: u64,
    pub(crate) insns: u64,
    pub(crate) guest_bytes: u64,
    pub(crate) host_bytes: u64,
    pub(crate) translate_ns: u64,
    pub(crate) invalidations: u64,
    pub(crate) links: u64,
    pub(crate) evictions: u64,
    pub(crate) flushes: u64,
}

struct Segment {
    start: usize,
    end: usize,
    /// End of the code in it; `start` = empty.
    used: usize,
    /// Pages that got a block here.
    pages: Vec<Arc<PageCode>>,
}

/// The code area and the pages.
pub(crate) struct Cache {
    pages: FxHashMap<(u64, u64), Arc<PageCode>>,
    by_page: FxHashMap<u64, Vec<Arc<PageCode>>>,
    area: DualMapping,
    segments: Vec<Segment>,
    /// Up to here huge pages were asked for.
    huge: usize,
    current: usize,
    /// Blocks of the interpreter, and their size.
    pub(crate) blocks: Vec<Arc<Block>>,
    block_bytes: usize,
    pub(crate) stats: Stats,
}

fn segments(len: usize) -> Vec<Segment> {
    let n = (len / MIN_SEGMENT).clamp(1, SEGMENTS);
    let size = (len / n) & !4095;
    let last = n - 1;
    let end = |i| if i == last { len } else { (i + 1) * size };
    let make = |i| Segment { start: i * size, end: end(i), used: i * size, pages: Vec::new() };
    (0..n).map(make).collect()
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> std::io::Result<Self> {
        Ok(Self::over(DualMapping::new("tinamou-code", bytes)?))
    }

    /// A cache whose code profilers find by a map.
    pub(crate) fn nameless(bytes: usize) -> std::io::Result<Self> {
        DualMapping::nameless(bytes).map(Self::over)
    }

    fn over(area: DualMapping) -> Self {
        Self {
            pages: FxHashMap::default(),
            by_page: FxHashMap::default(),
            segments: segments(area.len()),
            area,
            huge: 0,
            current: 0,
            blocks: Vec::new(),
            block_bytes: 0,
            stats: Stats::default(),
        }
    }

    /// Address that entry offsets count from.
    pub(crate) fn base(&self) -> u64 {
        self.area.rx() as u64
    }

    /// Bytes of code in use and in all.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.segments.iter().map(|s| s.used - s.start).sum(), self.area.len())
    }

    /// Bytes of the thunks.
    pub(crate) fn usage_of_runtime(&self) -> usize {
        self.segments.first().map_or(0, |s| s.start)
    }

    /// Blocks that can be found, and tables of entries.
    pub(crate) fn live(&self) -> (usize, usize) {
        let blocks =
            |p: &Arc<PageCode>| p.entries.iter().filter(|e| e.load(Ordering::Relaxed) != 0).count();
        (self.pages.values().map(blocks).sum(), self.pages.len())
    }

    fn emit_here<T>(
        &mut self,
        f: &mut impl FnMut(&mut CodeBuf<'_>) -> Result<T, CodeFull>,
    ) -> Result<(u32, T), CodeFull> {
        let base = self.base();
        let Some(s) = self.segments.get_mut(self.current) else { return Err(CodeFull) };
        let at = s.used.next_multiple_of(16);
        let room = s.end.checked_sub(at).ok_or(CodeFull)?;
        while self.huge <= at {
            self.area.make_huge(self.huge);
            self.huge += HUGE;
        }
        // SAFETY: [at, at + room) of the writable view is unused code memory; `&mut self` makes this
        // the only writer, and no generated code leads there.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.area.rw().add(at), room) };
        let mut buf = CodeBuf::new(bytes, base + at as u64);
        let r = f(&mut buf)?;
        s.used = at + buf.len();
        Ok((at as u32, r))
    }

    /// Lets `f` append code; the offset of the first byte from [`Self::base`]. When full, the oldest
    /// generation must go first ([`Self::evict`]).
    pub(crate) fn emit<T>(
        &mut self,
        mut f: impl FnMut(&mut CodeBuf<'_>) -> Result<T, CodeFull>,
    ) -> Result<(u32, T), CodeFull> {
        let r = self.emit_here(&mut f);
        if r.is_ok() {
            return r;
        }
        let next = (self.current + 1) % self.segments.len();
        if self.segments[next].used != self.segments[next].start {
            return r;
        }
        self.current = next;
        self.emit_here(&mut f)
    }

    /// Emitted code, from an offset on.
    pub(crate) fn code(&self, at: u32, len: usize) -> &[u8] {
        let at = at as usize;
        if at.checked_add(len).is_none_or(|end| end > self.area.len()) {
            return &[];
        }
        // SAFETY: inside the area; it is read while the lock is held, and patches of jumps elsewhere do
        // not touch the block that was just emitted.
        unsafe { std::slice::from_raw_parts(self.area.rw().add(at), len) }
    }

    /// Emits the thunks at the start of the area, which then begins behind them.
    pub(crate) fn emit_runtime(
        &mut self,
        mut f: impl FnMut(&mut CodeBuf<'_>) -> Result<Runtime, CodeFull>,
    ) -> Result<Runtime, CodeFull> {
        let (_, runtime) = self.emit_here(&mut f)?;
        let first = &mut self.segments[0];
        // Offset 0 means "not translated".
        first.start = first.used.max(16);
        first.used = first.start;
        Ok(runtime)
    }

    /// Patches the aligned word at an executable address.
    pub(crate) fn patch(&mut self, site: u64, word: u32) {
        let at = site.wrapping_sub(self.base());
        if at.is_multiple_of(4) && at.checked_add(4).is_some_and(|e| e <= self.area.len() as u64) {
            // SAFETY: an aligned word inside the area, of which exit stubs told the address; the store
            // is atomic, so a vCPU that runs there sees the old or the new jump.
            let word_at = unsafe { &*self.area.rw().add(at as usize).cast::<AtomicU32>() };
            word_at.store(word, Ordering::Release);
            self.stats.links += 1;
        }
    }

    /// The entry points of a page in a mode.
    pub(crate) fn page(&mut self, ram: &RamPage, key: u64) -> Arc<PageCode> {
        let known = self.pages.get(&(ram.host, key));
        if let Some(page) = known.filter(|p| p.ram.block.ptr_eq(&ram.block)) {
            return Arc::clone(page);
        }
        if known.is_some() {
            // Another block was mapped where an unplugged one had been.
            for old in self.by_page.remove(&ram.host).unwrap_or_default() {
                old.drop_blocks();
                self.pages.remove(&(ram.host, old.key));
            }
        }
        let page = PageCode::new(ram.clone(), key);
        self.pages.insert((ram.host, key), Arc::clone(&page));
        self.by_page.entry(ram.host).or_default().push(Arc::clone(&page));
        page
    }

    /// More tables of entries, or blocks of the interpreter, than the size allows: evict.
    pub(crate) fn is_over(&self) -> bool {
        let tables = (self.area.len() / 8192).max(MIN_TABLES);
        self.pages.len() > tables || self.block_bytes > self.area.len()
    }

    /// Adds a block of the interpreter; its entry.
    pub(crate) fn add_block(&mut self, block: &Block) -> u32 {
        self.block_bytes += 64 + size_of_val(block.ops.as_slice());
        self.blocks.push(Arc::new(block.clone()));
        self.blocks.len() as u32
    }

    /// Records a new block of `host` bytes.
    pub(crate) fn publish(&mut self, page: &Arc<PageCode>, block: &Block, entry: u32, host: usize) {
        let mark = self.current as u32 + 1;
        if page.listed.swap(mark, Ordering::Relaxed) != mark {
            self.segments[self.current].pages.push(Arc::clone(page));
        }
        page.mark_lines(block.start, block.len);
        page.entry(u64::from(block.start)).store(entry, Ordering::Release);
        self.stats.blocks += 1;
        self.stats.insns += u64::from(block.insns);
        self.stats.guest_bytes += u64::from(block.len);
        self.stats.host_bytes += host as u64;
    }

    /// A write to RAM inside one page: drops what was made from it. Gives (something was dropped, no
    /// code is left on the page).
    pub(crate) fn written(&mut self, at: u64, len: u64) -> (bool, bool) {
        let Some(pages) = self.by_page.get(&(at & !0xfff)) else { return (false, true) };
        let Some(first) = pages.first() else { return (false, true) };
        let offset = at & 0xfff;
        let dropped = pages.iter().any(|p| p.touches(offset, len));
        if dropped {
            for p in pages {
                p.drop_blocks();
            }
            self.stats.invalidations += 1;
            first.quiet.store(0, Ordering::Relaxed);
            if first.drops.fetch_add(1, Ordering::Relaxed) >= MIXED {
                return (true, false);
            }
        } else if pages.iter().any(|p| p.has_blocks())
            || first.quiet.fetch_add(1, Ordering::Relaxed) < QUIET
        {
            return (false, false);
        }
        if !dropped {
            first.drops.store(0, Ordering::Relaxed);
        }
        if let Some(block) = first.ram.block.upgrade() {
            block.forget_page(first.ram.offset);
        }
        (dropped, true)
    }

    fn remove(&mut self, page: &Arc<PageCode>, code_pages: &CodePages) {
        page.drop_blocks();
        let at = (page.ram.host, page.key);
        if !self.pages.get(&at).is_some_and(|p| Arc::ptr_eq(p, page)) {
            return;
        }
        self.pages.remove(&at);
        if let Some(list) = self.by_page.get_mut(&at.0) {
            list.retain(|p| !Arc::ptr_eq(p, page));
            if list.is_empty() {
                self.by_page.remove(&at.0);
                code_pages.remove(at.0);
                if let Some(block) = page.ram.block.upgrade() {
                    block.forget_page(page.ram.offset);
                }
            }
        }
    }

    /// Makes room: drops the oldest generation, or all if there is but one. No vCPU may be in generated
    /// code, and all must forget their code TLBs and predicted returns before they enter it again.
    pub(crate) fn evict(&mut self, code_pages: &CodePages) {
        let n = self.segments.len();
        let order = (1..n).map(|i| (self.current + i) % n);
        let oldest = order.into_iter().find(|i| !self.segments[*i].pages.is_empty());
        let Some(oldest) = oldest.filter(|_| self.blocks.is_empty()) else {
            return self.clear(code_pages);
        };
        self.empty(oldest, code_pages);
        self.stats.evictions += 1;
    }

    fn empty(&mut self, n: usize, code_pages: &CodePages) {
        let pages = std::mem::take(&mut self.segments[n].pages);
        for page in &pages {
            self.remove(page, code_pages);
        }
        let s = &mut self.segments[n];
        s.used = s.start;
    }

    /// Forgets everything, under the conditions of [`Self::evict`].
    pub(crate) fn clear(&mut self, code_pages: &CodePages) {
        for n in 0..self.segments.len() {
            self.empty(n, code_pages);
        }
        // Tables without a block are on no list.
        let rest: Vec<_> = self.pages.values().cloned().collect();
        for page in &rest {
            self.remove(page, code_pages);
        }
        self.current = 0;
        self.blocks.clear();
        self.block_bytes = 0;
        self.stats.flushes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u64) -> RamPage {
        RamPage { host: n << 12, block: Weak::new(), offset: 0 }
    }

    #[test]
    fn pages_that_share_a_bit_keep_it() {
        let pages = CodePages::new();
        let far = 0x1000 + (64 * CODE_PAGE_WORDS as u64) * 4096;
        assert!(pages.add(0x1000));
        pages.remove(0x1000);
        assert!(!pages.contains(0x1000));
        assert!(pages.add(0x1000) && !pages.add(far));
        pages.remove(far);
        assert!(pages.contains(0x1000), "writes to it must still be noticed");
    }

    #[test]
    fn the_oldest_generation_goes_and_the_bound_holds() {
        let size = 2 << 20;
        let mut cache = Cache::new(size).unwrap();
        let code_pages = CodePages::new();
        cache.emit_runtime(|out| out.put(&[0x90; 100]).map(|()| Runtime::default())).unwrap();
        let block = Block { len: 4, insns: 1, ..Block::default() };
        let mut made = 0u64;
        let mut first_evicted = None;
        while cache.stats.evictions < 10 {
            let p = cache.page(&page(made + 1), 7);
            match cache.emit(|out| out.put(&[0xcc; 4000])) {
                Ok((at, ())) => {
                    assert!(at as usize + 4000 <= size);
                    cache.publish(&p, &block, at, 4000);
                    made += 1;
                }
                Err(CodeFull) => {
                    cache.evict(&code_pages);
                    first_evicted.get_or_insert(made);
                }
            }
            assert!(cache.usage().0 <= size);
        }
        assert!(first_evicted.unwrap() > 450, "{first_evicted:?} of 500 blocks fit");
        assert_eq!(cache.stats.flushes, 0);
        let found =
            |n: u64| cache.pages.get(&(n << 12, 7)).map(|p| p.entry(0).load(Ordering::Relaxed));
        assert_eq!(found(1), None, "the first is gone");
        assert!(found(made).is_some_and(|e| e != 0), "the last is there");
        let kept = (1..=made).filter(|n| found(*n).is_some_and(|e| e != 0)).count();
        assert!(kept > 400, "{kept}");
        cache.clear(&code_pages);
        assert_eq!(cache.live(), (0, 0));
    }

    #[test]
    fn tables_and_interpreted_blocks_are_bounded() {
        let mut cache = Cache::new(1 << 20).unwrap();
        for n in 0..=MIN_TABLES as u64 {
            assert!(!cache.is_over());
            cache.page(&page(n), 1);
        }
        assert!(cache.is_over());
        cache.evict(&CodePages::new());
        assert!(!cache.is_over());
        while !cache.is_over() {
            cache.add_block(&Block::default());
        }
        assert!(cache.blocks.len() <= 1 << 15);
        cache.evict(&CodePages::new());
        assert!(cache.blocks.is_empty() && !cache.is_over());
    }
}
