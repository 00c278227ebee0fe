//! Translated code by physical page.
//!
//! A [`PageCode`] holds the entry points of one physical page in one mode; code is position
//! independent, so a page mapped at many addresses is translated once. Code memory is filled from
//! one end and, when full, emptied as a whole with all vCPUs outside (generational eviction is not
//! built yet). Translation takes one lock.
//!
//! UNSAFE: writes the code area through its writable view, under the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use host::DualMapping;
use jit_ir::Block;
use jit_ir::backend::{CodeBuf, CodeFull, Runtime};
use rustc_hash::FxHashMap;

/// Entry points of one page in one mode.
pub(crate) struct PageCode {
    /// Physical page.
    pub(crate) pa: u64,
    /// Mode key with the page's code attribute.
    pub(crate) key: u64,
    /// Offset of each instruction's block from the code base (native) or its number + 1 (interpreter);
    /// 0 = not translated.
    pub(crate) entries: Box<[AtomicU32]>,
    /// Which 64-byte lines blocks were made from.
    lines: AtomicU64,
}

impl PageCode {
    fn new(pa: u64, key: u64) -> Arc<Self> {
        let entries = (0..1024).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { pa, key, entries, lines: AtomicU64::new(0) })
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

    fn touches(&self, offset: u64, len: u64) -> bool {
        let last = (offset + len.max(1) - 1).min(4095) >> 6;
        (offset >> 6..=last).any(|n| self.lines.load(Ordering::Relaxed) >> n & 1 != 0)
    }

    fn drop_blocks(&self) {
        for e in &self.entries {
            e.store(0, Ordering::Release);
        }
        self.lines.store(0, Ordering::Relaxed);
    }
}

/// Which physical pages hold translated code: a bitmap hashed by page number. A set bit only makes
/// writes take the slow path, so collisions are harmless.
pub(crate) struct CodePages(Box<[AtomicU64]>);

const CODE_PAGE_WORDS: usize = 1 << 16;

impl CodePages {
    pub(crate) fn new() -> Self {
        Self((0..CODE_PAGE_WORDS).map(|_| AtomicU64::new(0)).collect())
    }
    fn place(&self, pa: u64) -> (&AtomicU64, u64) {
        let n = pa >> 12;
        (&self.0[(n >> 6) as usize & (CODE_PAGE_WORDS - 1)], 1 << (n & 63))
    }
    pub(crate) fn contains(&self, pa: u64) -> bool {
        let (w, bit) = self.place(pa);
        w.load(Ordering::SeqCst) & bit != 0
    }
    /// True if it was not there.
    pub(crate) fn add(&self, pa: u64) -> bool {
        let (w, bit) = self.place(pa);
        w.fetch_or(bit, Ordering::SeqCst) & bit == 0
    }
    pub(crate) fn remove(&self, pa: u64) {
        let (w, bit) = self.place(pa);
        w.fetch_and(!bit, Ordering::SeqCst);
    }
    fn clear(&self) {
        for w in &self.0 {
            w.store(0, Ordering::SeqCst);
        }
    }
}

/// Numbers for `info jit`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) blocks: u64,
    pub(crate) insns: u64,
    pub(crate) translate_ns: u64,
    pub(crate) invalidations: u64,
    pub(crate) flushes: u64,
}

/// The code area and the pages.
pub(crate) struct Cache {
    pages: FxHashMap<(u64, u64), Arc<PageCode>>,
    by_pa: FxHashMap<u64, Vec<Arc<PageCode>>>,
    area: DualMapping,
    used: usize,
    after_runtime: usize,
    /// Blocks of the interpreter.
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) stats: Stats,
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            pages: FxHashMap::default(),
            by_pa: FxHashMap::default(),
            area: DualMapping::new("tinamou-code", bytes)?,
            used: 0,
            after_runtime: 0,
            blocks: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Address that entry offsets count from.
    pub(crate) fn base(&self) -> u64 {
        self.area.rx() as u64
    }

    /// Bytes of code in use and in all.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.used, self.area.len())
    }

    /// Lets `f` append code; the offset of the first byte from [`Self::base`].
    pub(crate) fn emit<T>(
        &mut self,
        f: impl FnOnce(&mut CodeBuf<'_>) -> Result<T, CodeFull>,
    ) -> Result<(u32, T), CodeFull> {
        let at = self.used.next_multiple_of(16);
        let room = self.area.len().checked_sub(at).ok_or(CodeFull)?;
        // SAFETY: [at, at + room) of the writable view is unused code memory; `&mut self` makes this
        // the only writer, and generated code never reads beyond `used`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.area.rw().add(at), room) };
        let mut buf = CodeBuf::new(bytes, self.base() + at as u64);
        let r = f(&mut buf)?;
        self.used = at + buf.len();
        Ok((at as u32, r))
    }

    /// Emitted code, from an offset on.
    pub(crate) fn code(&self, at: u32, len: usize) -> &[u8] {
        let at = at as usize;
        if at.checked_add(len).is_none_or(|end| end > self.used) {
            return &[];
        }
        // SAFETY: inside the part of the area that was written; it is read while the lock is held, and
        // patches of jumps elsewhere in the area do not touch the block that was just emitted.
        unsafe { std::slice::from_raw_parts(self.area.rw().add(at), len) }
    }

    /// Emits the thunks at the start of the area.
    pub(crate) fn emit_runtime(
        &mut self,
        f: impl FnOnce(&mut CodeBuf<'_>) -> Result<Runtime, CodeFull>,
    ) -> Result<Runtime, CodeFull> {
        // Offset 0 means "not translated".
        let (_, runtime) = self.emit(f)?;
        self.used = self.used.max(16);
        self.after_runtime = self.used;
        Ok(runtime)
    }

    /// Patches the aligned word at an executable address.
    pub(crate) fn patch(&self, site: u64, word: u32) {
        let at = site.wrapping_sub(self.base());
        if at.is_multiple_of(4) && at + 4 <= self.used as u64 {
            // SAFETY: an aligned word inside the area, of which exit stubs told the address; the store
            // is atomic, so a vCPU that runs there sees the old or the new jump.
            let word_at = unsafe { &*self.area.rw().add(at as usize).cast::<AtomicU32>() };
            word_at.store(word, Ordering::Release);
        }
    }

    /// The entry points of a page in a mode.
    pub(crate) fn page(&mut self, pa: u64, key: u64) -> Arc<PageCode> {
        let page = self.pages.entry((pa, key)).or_insert_with(|| {
            let page = PageCode::new(pa, key);
            self.by_pa.entry(pa).or_default().push(Arc::clone(&page));
            page
        });
        Arc::clone(page)
    }

    /// Records a new block.
    pub(crate) fn publish(&mut self, page: &PageCode, block: &Block, entry: u32) {
        page.mark_lines(block.start, block.len);
        page.entry(u64::from(block.start)).store(entry, Ordering::Release);
        self.stats.blocks += 1;
        self.stats.insns += u64::from(block.insns);
    }

    /// A write to a physical page: drops what was made from it. Gives (something was dropped, no code
    /// is left on the page).
    pub(crate) fn written(&mut self, pa: u64, len: u64) -> (bool, bool) {
        let Some(pages) = self.by_pa.get(&(pa & !0xfff)) else { return (false, true) };
        let offset = pa & 0xfff;
        if !pages.iter().any(|p| p.touches(offset, len)) {
            return (false, false);
        }
        for p in pages {
            p.drop_blocks();
        }
        self.stats.invalidations += 1;
        (true, true)
    }

    /// Forgets everything. No vCPU may be in generated code, and their code TLBs must be emptied.
    pub(crate) fn clear(&mut self, code_pages: &CodePages) {
        self.pages.clear();
        self.by_pa.clear();
        self.blocks.clear();
        code_pages.clear();
        self.used = self.after_runtime;
        self.stats.flushes += 1;
    }
}
