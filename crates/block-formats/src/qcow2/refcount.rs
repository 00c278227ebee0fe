//! Reference counts of host clusters, and finding free ones.
//!
//! A table names blocks of counts; a block that is not there stands for zeroes. Blocks are read
//! when needed, changed in memory and written by [`Refcounts::write`], blocks before the table.
//! A new block lies in a free cluster, possibly one that it counts itself. The table grows by
//! moving; the header then names the new one.
//! Source: qcow2 specification, "Host cluster management".

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use block::{Node, invalid};

use super::header::Header;

/// Blocks kept in memory.
const KEPT: usize = 256;
const OFFSET: u64 = 0xffff_ffff_ffff_fe00;

struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

/// Reference counts.
pub(super) struct Refcounts {
    file: Arc<Node>,
    bits: u32,
    order: u32,
    /// Offsets of blocks.
    pub(super) table: Vec<u64>,
    table_dirty: bool,
    /// Where the table is in the file as far as the header on the disk knows.
    pub(super) table_offset: u64,
    moved: bool,
    blocks: HashMap<usize, Block>,
    /// No cluster below is free.
    hint: u64,
    /// Clusters of the table that the header does not name any more once it is written.
    given_up: Vec<u64>,
}

impl Refcounts {
    pub(super) fn read(header: &Header, file: Arc<Node>) -> io::Result<Refcounts> {
        let len = (header.table_clusters as usize) << header.cluster_bits;
        let mut bytes = vec![0; len];
        file.driver().event("reftable_load");
        file.driver().read(header.table_offset, &mut bytes)?;
        let table = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
        Ok(Refcounts {
            file,
            bits: header.cluster_bits,
            order: header.refcount_order,
            table,
            table_dirty: false,
            table_offset: header.table_offset,
            moved: false,
            blocks: HashMap::new(),
            hint: 1,
            given_up: Vec::new(),
        })
    }

    /// Counts in a block.
    pub(super) fn per_block(&self) -> u64 {
        1 << (self.bits + 3 - self.order)
    }

    /// The greatest count.
    pub(super) fn max(&self) -> u64 {
        if self.order == 6 { u64::MAX } else { (1 << (1 << self.order)) - 1 }
    }

    /// Counts have another width from the next [`Refcounts::rebuild`] on, which must follow.
    pub(super) fn set_order(&mut self, order: u32) {
        self.order = order;
        self.blocks.clear();
    }

    fn split(&self, cluster: u64) -> (usize, usize) {
        let index = usize::try_from(cluster / self.per_block()).unwrap_or(usize::MAX);
        (index, usize::try_from(cluster % self.per_block()).unwrap_or(0))
    }

    fn block(&mut self, index: usize) -> io::Result<Option<&mut Block>> {
        let offset = self.table.get(index).copied().unwrap_or(0) & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if !self.blocks.contains_key(&index) {
            if offset & ((1 << self.bits) - 1) != 0 {
                return Err(invalid("a reference count block is not at a cluster's begin"));
            }
            if self.blocks.len() >= KEPT {
                self.write_blocks()?;
                self.blocks.clear();
            }
            let mut bytes = vec![0; 1 << self.bits];
            self.file.driver().event("refblock_load");
            self.file.driver().read(offset, &mut bytes)?;
            self.blocks.insert(index, Block { bytes, dirty: false });
        }
        Ok(self.blocks.get_mut(&index))
    }

    /// The count of a cluster.
    pub(super) fn count(&mut self, cluster: u64) -> io::Result<u64> {
        let ((index, at), order) = (self.split(cluster), self.order);
        Ok(self.block(index)?.map_or(0, |block| value(&block.bytes, order, at)))
    }

    /// Where the table lies, and its length.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.table_offset, self.table.len() as u64 * 8)
    }

    /// Forgets a block: its counts are zeroes.
    pub(super) fn drop_block(&mut self, index: usize) {
        if let Some(slot) = self.table.get_mut(index) {
            *slot = 0;
            self.table_dirty = true;
        }
        self.blocks.remove(&index);
    }

    /// Sets the count of a cluster; its block is made if need be.
    pub(super) fn set(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        if count > self.max() {
            return Err(invalid("a reference count is too large"));
        }
        while self.ensure(cluster)? {}
        self.store(cluster, count)
    }

    fn store(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        let ((index, at), order) = (self.split(cluster), self.order);
        if let Some(block) = self.block(index)? {
            put(&mut block.bytes, order, at, count);
            block.dirty = true;
        }
        if count == 0 {
            self.hint = self.hint.min(cluster.max(1));
        }
        Ok(())
    }

    /// Adds to the count of a cluster (or takes away); gives the new one.
    pub(super) fn add(&mut self, cluster: u64, by: i64) -> io::Result<u64> {
        let count = self.count(cluster)?.checked_add_signed(by);
        let count = count.ok_or_else(|| invalid("a reference count is out of range"))?;
        self.set(cluster, count)?;
        Ok(count)
    }

    /// `len` free clusters in a row.
    fn find(&mut self, len: u64) -> io::Result<u64> {
        let per_block = self.per_block();
        let (mut start, mut at) = (self.hint, self.hint);
        let order = self.order;
        while at - start < len {
            let (index, within) = self.split(at);
            if index >= self.table.len() {
                // Nothing behind the table is in use.
                break;
            }
            let missing = per_block - within as u64;
            let Some(block) = self.block(index)? else {
                at += missing;
                continue;
            };
            let mut within = within;
            while (within as u64) < per_block && at - start < len {
                if value(&block.bytes, order, within) != 0 {
                    start = at + 1;
                }
                (within, at) = (within + 1, at + 1);
            }
        }
        if start > 1 << (56 - self.bits) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(start)
    }

    /// Takes `len` clusters in a row; the first one's number.
    pub(super) fn take(&mut self, len: u64) -> io::Result<u64> {
        loop {
            let first = self.find(len)?;
            let mut changed = false;
            let mut cluster = first;
            while cluster < first + len {
                changed |= self.ensure(cluster)?;
                cluster = (cluster / self.per_block() + 1) * self.per_block();
            }
            if changed {
                continue;
            }
            for cluster in first..first + len {
                self.store(cluster, 1)?;
            }
            // As at the peer: holes that were too small are looked at again when more is freed.
            self.hint = first + len;
            return Ok(first);
        }
    }

    /// Makes the block that counts this cluster; `true` when something was changed, so that what
    /// was found free may not be any more.
    fn ensure(&mut self, cluster: u64) -> io::Result<bool> {
        let (index, _) = self.split(cluster);
        if index >= self.table.len() {
            return self.grow(index).map(|()| true);
        }
        if self.table.get(index).is_some_and(|offset| offset & OFFSET != 0) {
            return Ok(false);
        }
        self.file.driver().event("refblock_alloc");
        let place = self.find(1)?;
        let (home, within) = self.split(place);
        if home >= self.table.len() {
            return self.grow(home).map(|()| true);
        }
        let home_exists = self.table.get(home).is_some_and(|offset| offset & OFFSET != 0);
        let mut bytes = vec![0; 1 << self.bits];
        // A block whose place nobody counts yet counts itself and is made first.
        let index = if home_exists { index } else { home };
        if home_exists {
            self.store(place, 1)?;
        } else {
            put(&mut bytes, self.order, within, 1);
        }
        if let Some(slot) = self.table.get_mut(index) {
            *slot = place << self.bits;
        }
        self.table_dirty = true;
        self.blocks.insert(index, Block { bytes, dirty: true });
        Ok(true)
    }

    fn grow(&mut self, index: usize) -> io::Result<()> {
        self.file.driver().event("reftable_grow");
        let per_cluster = 1usize << (self.bits - 3);
        let old = (self.table.len() / per_cluster) as u64;
        let old_at = self.table_offset >> self.bits;
        // Room to spare, so that the new table's own counts fit.
        let want = (index + 1).max(self.table.len() * 3 / 2) + per_cluster;
        let clusters = want.div_ceil(per_cluster);
        if (clusters as u64) << self.bits > 8 << 20 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.table.resize(clusters * per_cluster, 0);
        let place = self.take(clusters as u64)?;
        let before = self.moved;
        self.moved = true;
        self.table_dirty = true;
        self.table_offset = place << self.bits;
        if before {
            // The header never named the one that is given up now.
            for cluster in old_at..old_at + old {
                self.store(cluster, 0)?;
            }
        } else {
            self.given_up.extend(old_at..old_at + old);
        }
        Ok(())
    }

    /// Writes all counts anew behind the last cluster in use; the header names the new table then.
    pub(super) fn rebuild(&mut self, header: &mut Header, counts: &[u32]) -> io::Result<()> {
        let per_block = usize::try_from(self.per_block()).unwrap_or(1);
        let used = counts.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
        let mut counts = counts.get(..used).unwrap_or_default().to_vec();
        let cluster = 1usize << self.bits;
        let wanted = |counts: &[u32]| -> Vec<usize> {
            let blocks = counts.chunks(per_block).enumerate();
            blocks.filter(|(_, b)| b.iter().any(|c| *c != 0)).map(|(n, _)| n).collect()
        };
        let (mut blocks, mut table) = (wanted(&counts).len(), 1);
        loop {
            counts.truncate(used);
            counts.resize(used + blocks + table, 1);
            let need = wanted(&counts);
            let entries = need.last().map_or(1, |last| last + 1);
            let (b, t) = (need.len(), (entries * 8).div_ceil(cluster));
            if (b, t) == (blocks, table) {
                break;
            }
            (blocks, table) = (b.max(blocks), t.max(table));
        }
        if (table as u64) << self.bits > 8 << 20 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut new = vec![0u64; table * cluster / 8];
        for (n, index) in wanted(&counts).into_iter().enumerate() {
            let place = ((used + n) as u64) << self.bits;
            let mut bytes = vec![0; cluster];
            let part = counts.chunks(per_block).nth(index).unwrap_or_default();
            for (at, count) in part.iter().enumerate() {
                put(&mut bytes, self.order, at, u64::from(*count).min(self.max()));
            }
            self.file.driver().write(place, &bytes)?;
            if let Some(slot) = new.get_mut(index) {
                *slot = place;
            }
        }
        self.table_offset = ((used + blocks) as u64) << self.bits;
        let bytes: Vec<u8> = new.iter().flat_map(|offset| offset.to_be_bytes()).collect();
        self.file.driver().write(self.table_offset, &bytes)?;
        self.file.driver().flush()?;
        header.table_offset = self.table_offset;
        header.table_clusters = u32::try_from(table).unwrap_or(0);
        header.write(&self.file)?;
        self.file.driver().flush()?;
        (self.table, self.table_dirty, self.moved, self.hint) = (new, false, false, 1);
        self.blocks.clear();
        self.given_up.clear();
        Ok(())
    }

    fn write_blocks(&mut self) -> io::Result<()> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            let offset = self.table.get(*index).copied().unwrap_or(0) & OFFSET;
            self.file.driver().event("refblock_update_part");
            self.file.driver().write(offset, &block.bytes)?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Whether there is something to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.table_dirty || self.blocks.values().any(|block| block.dirty)
    }

    /// Writes all; clusters of a table that was given up come back.
    pub(super) fn write(&mut self, header: &mut Header) -> io::Result<Vec<u64>> {
        self.write_blocks()?;
        if !self.table_dirty {
            return Ok(Vec::new());
        }
        self.file.driver().flush()?;
        let bytes: Vec<u8> = self.table.iter().flat_map(|offset| offset.to_be_bytes()).collect();
        self.file.driver().event("reftable_update");
        self.file.driver().write(self.table_offset, &bytes)?;
        self.table_dirty = false;
        if self.moved {
            self.file.driver().flush()?;
            header.table_offset = self.table_offset;
            header.table_clusters = u32::try_from(bytes.len() >> self.bits).unwrap_or(0);
            header.write(&self.file)?;
            self.moved = false;
        }
        Ok(std::mem::take(&mut self.given_up))
    }
}

fn value(bytes: &[u8], order: u32, at: usize) -> u64 {
    if order < 3 {
        let per_byte = 8 >> order;
        let byte = bytes.get(at / per_byte).copied().unwrap_or(0);
        let shift = (at % per_byte) << order;
        return u64::from(byte >> shift) & ((1 << (1 << order)) - 1);
    }
    let len = 1usize << (order - 3);
    let found = bytes.get(at * len..(at + 1) * len).unwrap_or_default();
    found.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub(super) fn put(bytes: &mut [u8], order: u32, at: usize, count: u64) {
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (at % per_byte) << order;
        let mask = ((1u32 << (1 << order)) - 1) << shift;
        if let Some(byte) = bytes.get_mut(at / per_byte) {
            let bits = u32::try_from(count).unwrap_or(0) << shift & mask;
            *byte = u8::try_from(u32::from(*byte) & !mask & 0xff | bits).unwrap_or(0);
        }
        return;
    }
    let len = 1usize << (order - 3);
    if let Some(slot) = bytes.get_mut(at * len..(at + 1) * len) {
        slot.copy_from_slice(count.to_be_bytes().get(8 - len..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_widths_are_stored_and_found() {
        for order in 0..=6 {
            let mut bytes = vec![0; 64];
            let max = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            put(&mut bytes, order, 5, max);
            put(&mut bytes, order, 6, 1);
            put(&mut bytes, order, 5, 1);
            let found: Vec<u64> = (4..8).map(|at| value(&bytes, order, at)).collect();
            assert_eq!(found, [0, 1, 1, 0], "order {order}");
        }
    }
}
