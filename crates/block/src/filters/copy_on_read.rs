//! `copy-on-read`: what is read through the top layer of a chain is written to it.
//!
//! After a read the range is in the top layer, so the backing file is asked once only. Copying
//! excludes writes, so that nothing new is overwritten by something old.
//! With `bottom` only what the layers down to that one hold is copied.
//! Not here: reads that only prefetch.
//! Source: QEMU's manual, `copy-on-read`.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use qapi::Result;

use super::pass::{Access, Filter, Passing, Rest};
use crate::driver::{BlockClass, BlockDriver};
use crate::node::{Child, Node};
use crate::opening::Opening;

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

struct CopyOnRead {
    file: Child,
    /// The last layer whose data is copied; without it all are.
    bottom: Option<Weak<Node>>,
    /// Shared by writes, exclusive for copying.
    gate: RwLock<()>,
}

impl CopyOnRead {
    /// Copies what of a range the top layer does not hold.
    fn copy(&self, at: u64, len: u64) -> io::Result<()> {
        let (mut done, node) = (0, self.file.node());
        let below = node.driver();
        while done < len {
            let pos = at + done;
            let (held, n) = below.holds(pos, (len - done).min(PIECE))?;
            let mut n = n.clamp(1, len - done);
            let mut wanted = !held;
            if wanted {
                (wanted, n) = self.is_above_bottom(pos, n)?;
            }
            if wanted {
                let _all = self.gate.write();
                // Looked at again: a write may have come in between.
                let (held, now) = below.holds(pos, n)?;
                n = now.clamp(1, n);
                if !held {
                    let mut data = vec![0; usize::try_from(n).unwrap_or(0)];
                    below.read(pos, &mut data)?;
                    below.write(pos, &data)?;
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Whether a layer down to the bottom one holds a range that the top one does not hold.
    fn is_above_bottom(&self, at: u64, mut len: u64) -> io::Result<(bool, u64)> {
        let Some(bottom) = &self.bottom else { return Ok((true, len)) };
        let mut top = self.file.node();
        while top.class().passes_on()
            && let Some(below) = top.child("file").or_else(|| top.child("image"))
        {
            // Bytes of a window lie elsewhere below it: all is copied.
            if top.given("offset").is_some() {
                return Ok((true, len));
            }
            top = below;
        }
        for layer in top.chain().iter().skip(1) {
            if at >= layer.len() {
                // It ends before: zeroes that it decides.
                return Ok((true, len));
            }
            let (held, n) = layer.driver().holds(at, len.min(layer.len() - at))?;
            len = n.clamp(1, len);
            if held {
                return Ok((true, len));
            }
            if std::ptr::eq(bottom.as_ptr(), Arc::as_ptr(layer)) {
                break;
            }
        }
        Ok((false, len))
    }
}

impl Filter for CopyOnRead {
    fn below(&self) -> Arc<Node> {
        self.file.node()
    }
    fn pass(&self, access: Access, at: u64, len: u64, rest: &mut Rest<'_>) -> io::Result<()> {
        let _shared = match access {
            Access::Read => {
                self.copy(at, len)?;
                None
            }
            Access::Flush => None,
            _ => Some(self.gate.read()),
        };
        rest(at, len)
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let bottom = crate::options::take::<String>(&mut at.options, "bottom", at.source)?;
    let file = at.writable_child("file")?;
    at.filename = file.node().path().to_owned();
    let bottom = match bottom {
        Some(name) => Some(
            at.node(&name)
                .ok_or_else(|| qapi::Error::generic(format!("Bottom node '{name}' not found")))?,
        ),
        None => None,
    };
    // A layer under filters is meant by its filters as well.
    let bottom = bottom.map(|node| Arc::downgrade(&node.skip_filters()));
    Ok(Arc::new(Passing(CopyOnRead { file, bottom, gate: RwLock::new(()) })))
}

pub(crate) const CLASS: BlockClass = BlockClass {
    name: "copy-on-read",
    protocol: false,
    probe: |_| 0,
    open,
    create: None,
    create_options: &[],
    describe: |_| String::new(),
    has_backing: false,
};
