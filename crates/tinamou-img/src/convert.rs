//! `convert`: reads where there is data, writes it, leaves zeroes out.
//!
//! Ranges are looked up in the chain of the source; what reads as zeroes is not written to a new
//! image. Compressing is done by as many threads as the host has processors, a batch at a time.

use block::{Creation, Flags, Node};

use crate::create::{checked, class, help, make};
use crate::options::{Given, graph, open, pairs};
use crate::{Done, Fail, fail, say};

/// Bytes moved at once.
const PIECE: u64 = 2 << 20;
/// Clusters compressed in one batch.
const BATCH: u64 = 64;

fn is_zero(data: &[u8]) -> bool {
    let (chunks, rest) = data.as_chunks::<16>();
    chunks.iter().all(|c| u128::from_ne_bytes(*c) == 0) && rest.iter().all(|b| *b == 0)
}

struct Copy<'a> {
    from: &'a Node,
    to: &'a Node,
    progress: bool,
    /// Runs of zeroes of at least so many bytes are left out.
    sparse: u64,
}

impl Copy<'_> {
    fn show(&self, done: u64) {
        if self.progress {
            #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
            let percent = if self.from.is_empty() {
                100.0
            } else {
                done as f64 * 100.0 / self.from.len() as f64
            };
            say(&format!("    ({percent:.2}/100%)\r"));
        }
    }

    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, Fail> {
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        match self.from.read(at, &mut data) {
            Ok(()) => Ok(data),
            Err(error) => fail(&format!("error while reading at byte {at}"), &error),
        }
    }

    /// The end of the range at `at` that has data; `None` when it is zero, and its end.
    fn look(&self, at: u64) -> Result<(bool, u64), Fail> {
        match self.from.extent_of_chain(at, self.from.len() - at) {
            Ok((extent, _)) => Ok((extent.zero, at + extent.len)),
            Err(error) => fail("error while reading block status", &error),
        }
    }

    fn plain(&self) -> Result<(), Fail> {
        let (mut at, end) = (0, self.from.len());
        while at < end {
            let (zero, mut stop) = self.look(at)?;
            if zero {
                at = stop;
                continue;
            }
            stop = stop.min(at + PIECE);
            let data = self.read(at, stop - at)?;
            self.write(at, &data)?;
            at = stop;
            self.show(at);
        }
        Ok(())
    }

    /// Writes what is not zero.
    fn write(&self, at: u64, data: &[u8]) -> Result<(), Fail> {
        let step = usize::try_from(self.sparse.max(512)).unwrap_or(4096);
        let mut begin: Option<usize> = None;
        let put = |from: usize, to: usize| match self
            .to
            .driver()
            .write(at + from as u64, data.get(from..to).unwrap_or_default())
        {
            Ok(()) => Ok(()),
            Err(error) => {
                fail(&format!("error while writing at byte {}", at + from as u64), &error)
            }
        };
        for (n, chunk) in data.chunks(step).enumerate() {
            let zero = self.sparse > 0 && is_zero(chunk);
            match (begin, zero) {
                (Some(from), true) => {
                    put(from, n * step)?;
                    begin = None;
                }
                (None, false) => begin = Some(n * step),
                _ => {}
            }
        }
        begin.map_or(Ok(()), |from| put(from, data.len()))
    }

    fn compressed(&self, cluster: u64) -> Result<(), Fail> {
        let (mut at, end) = (0, self.from.len());
        while at < end {
            let (zero, stop) = self.look(at)?;
            let whole = stop & !(cluster - 1);
            if zero && whole > at {
                at = whole;
                continue;
            }
            let stop = stop.next_multiple_of(cluster).min(at + BATCH * cluster).min(end);
            let data = self.read(at, stop - at)?;
            self.batch(at, &data, usize::try_from(cluster).unwrap_or(65536))?;
            at = stop;
            self.show(at);
        }
        Ok(())
    }

    fn batch(&self, at: u64, data: &[u8], cluster: usize) -> Result<(), Fail> {
        let chunks: Vec<&[u8]> = data.chunks(cluster).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = chunks.len().div_ceil(threads).max(1);
        let pack = |part: &[&[u8]]| -> Vec<std::io::Result<Option<Vec<u8>>>> {
            let one = |chunk: &&[u8]| {
                if is_zero(chunk) { Ok(Some(Vec::new())) } else { self.to.driver().pack(chunk) }
            };
            part.iter().map(one).collect()
        };
        let mut parts: Vec<Vec<_>> = Vec::new();
        std::thread::scope(|scope| {
            let work: Vec<_> =
                chunks.chunks(share).map(|part| scope.spawn(move || pack(part))).collect();
            parts.extend(work.into_iter().map(|thread| thread.join().unwrap_or_default()));
        });
        let mut count = 0;
        for (n, (packed, chunk)) in parts.into_iter().flatten().zip(&chunks).enumerate() {
            let at = at + (n * cluster) as u64;
            count = n + 1;
            let done = packed.and_then(|packed| match packed {
                Some(packed) if packed.is_empty() => Ok(()),
                Some(packed) => self.to.driver().write_packed(at, &packed),
                None => self.to.driver().write(at, chunk),
            });
            if let Err(error) = done {
                return fail(&format!("error while compressing at byte {at}"), &error);
            }
        }
        if count == chunks.len() {
            Ok(())
        } else {
            Err(Fail("a compressing thread ended".into(), 1))
        }
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let given = Given::of(args, "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:")?;
    let graph = graph();
    let format = given.value('O').unwrap_or("raw");
    let class = class(&graph, format)?;
    if given.values('o').any(|o| matches!(o, "help" | "?")) {
        say(&help(class));
        return Ok(0);
    }
    let [source, target] = given.names.as_slice() else {
        return Err(Fail(
            "Must specify image file name\nTry 'qemu-img --help' for more info".into(),
            1,
        ));
    };
    for letter in ['B', 'l'] {
        if given.has(letter) {
            return Err(Fail(format!("convert -{letter} is not built yet in Tinamou"), 1));
        }
    }
    let flags = Flags { read_only: true, force_share: given.has('U'), ..Flags::default() };
    let from = open(&graph, source, given.value('f'), flags)?;
    let mut options = Vec::new();
    for text in given.values('o') {
        options.extend(pairs(text)?);
    }
    checked(class, &options)?;
    if options.iter().any(|(key, _)| key == "backing_file") {
        return Err(Fail("convert with a backing file is not built yet in Tinamou".into(), 1));
    }
    if given.has('c') && format != "qcow2" {
        return Err(Fail("Compression not supported for this file format".into(), 1));
    }
    let size = from.len().next_multiple_of(512);
    if !given.has('n') {
        make(class, &Creation { filename: target.clone(), size, options, ..Creation::default() })?;
    }
    let unsafe_cache = given.value('t').is_none_or(|word| word == "unsafe");
    let to =
        open(&graph, target, Some(format), Flags { no_flush: unsafe_cache, ..Flags::default() })?;
    if to.len() < from.len() {
        return Err(Fail("output file is smaller than input file".into(), 1));
    }
    if given.has('n')
        && let Err(error) = to.driver().write_zeroes(0, to.len(), true)
    {
        return fail("error while zeroing the target", &error);
    }
    let sparse = given.value('S').map_or(Ok(4096), crate::options::size)?;
    let copy = Copy { from: &from, to: &to, progress: given.has('p') && !given.has('q'), sparse };
    copy.show(0);
    match to.driver().format_info().cluster_size.filter(|_| given.has('c')) {
        Some(cluster) => copy.compressed(cluster)?,
        None => copy.plain()?,
    }
    copy.show(from.len());
    if copy.progress {
        say("\n");
    }
    if let Err(error) = to.flush() {
        return fail("error while flushing", &error);
    }
    Ok(0)
}
