//! `info jit`: numbers of the code area, in QEMU's layout where it has the same ones.
//!
//! Lines of QEMU's that count what this engine does not have (its hash table, cross-page blocks) are
//! absent; hits of look-ups, evicted generations and the time of translation are added.
//! UNSAFE: none.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::engine::Engine;

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn percent(a: u64, b: u64) -> u64 {
    a.saturating_mul(100).checked_div(b).unwrap_or(0)
}

/// The text.
pub(crate) fn text(engine: &Engine) -> String {
    let cache = engine.cache.lock();
    let ((used, size), (live, pages), s) = (cache.usage(), cache.live(), cache.stats);
    drop(cache);
    let mut sums = [0; 6];
    for p in &*engine.peers.lock() {
        let all = [&p.lookups, &p.hits, &p.slow, &p.fills, &p.walks, &p.flushes];
        sums.iter_mut().zip(all).for_each(|(sum, n)| *sum += n.load(Ordering::Relaxed));
    }
    let [lookups, hits, slow, fills, walks, flushes] = sums;
    let one = if engine.options.max_insns == 1 { "on" } else { "off" };
    let backend = engine.native.as_ref().map_or("interp", |n| n.backend.name());
    let mut t = format!("Accelerator settings:\none-insn-per-tb: {one}\nbackend: {backend}\n\n");
    _ = writeln!(t, "Translation buffer state:\ngen code size       {used}/{size}");
    _ = writeln!(t, "TB count            {live} on {pages} pages, {} since start", s.blocks);
    let (target, host) = (ratio(s.guest_bytes, s.blocks), ratio(s.host_bytes, s.blocks));
    _ = writeln!(t, "TB avg target size  {target:.0} bytes");
    let expansion = ratio(s.host_bytes, s.guest_bytes);
    _ = writeln!(t, "TB avg host size    {host:.0} bytes (expansion ratio: {expansion:.1})");
    _ = writeln!(t, "direct jump count   {}", s.links);
    _ = writeln!(
        t,
        "TB lookups          {lookups}, {hits} found at once ({}%)",
        percent(hits, lookups)
    );
    let each = ratio(s.translate_ns, s.insns) / 1000.0;
    _ = writeln!(t, "translation         {each:.3} us for each of {} guest instructions", s.insns);
    _ = writeln!(t, "\nStatistics:\nTB flush count      {}", s.flushes);
    _ = writeln!(t, "TB evictions        {} generations", s.evictions);
    _ = writeln!(t, "TB invalidate count {}", s.invalidations);
    _ = writeln!(t, "TLB flushes         {flushes}");
    _ = writeln!(t, "TLB fills           {fills}, {walks} walks");
    _ = writeln!(t, "slow accesses       {slow}");
    if engine.counted.is_some() {
        t.push_str(&crate::perf::counts_text(engine.translator.helpers()));
    }
    if engine.options.check_tlb != 0 {
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (entries, skipped) = (count(&engine.checked.entries), count(&engine.checked.skipped));
        _ = writeln!(t, "checked TLB entries {entries}, {skipped} looks skipped");
    }
    if let Some(verify) = &engine.verify {
        _ = writeln!(t, "verified blocks     {}", verify.done.load(Ordering::Relaxed));
    }
    t
}
