//! Nodes go on in other ways: for reading only, past the page cache, with another backing node.
//!
//! [`Graph::reopen_as`] changes one node and the files below that came with it; files that the user
//! added as nodes of their own stay, unless `auto-read-only` lets them follow. The caller drains.
//! What fails leaves everything as it was.
//! Not here: other children than the backing node, drivers' own options.
//! Source: QEMU's manual (`blockdev-reopen`, `auto-read-only`), messages of QEMU 10.0.

use std::sync::Arc;

use qapi::{Error, Result};

use crate::graph::{Flags, Graph};
use crate::node::{Detect, Node, Use};

impl Graph {
    /// Whether the user added this node by itself.
    #[must_use]
    pub fn is_named(&self, node: &Arc<Node>) -> bool {
        self.named.lock().iter().any(|named| Arc::ptr_eq(named, node))
    }

    /// Makes a node read-only or writable.
    ///
    /// # Errors
    /// It, its file or another user does not allow it.
    pub fn set_read_only(&self, node: &Arc<Node>, read_only: bool) -> Result<()> {
        if node.is_read_only() == read_only {
            return Ok(());
        }
        let flags = Flags { read_only, ..node.flags() };
        self.reopen_as(node, flags, node.detect_zeroes())
    }

    /// Goes on with other flags.
    ///
    /// # Errors
    /// As [`Graph::set_read_only`]; everything is as it was.
    pub fn reopen_as(&self, node: &Arc<Node>, flags: Flags, detect: Detect) -> Result<()> {
        let old = node.flags();
        let writers = node.users().iter().any(|(_, how)| how.writes);
        if flags.read_only && !old.read_only && writers {
            return Err(Error::generic(format!(
                "Read-only block node '{}' cannot support read-write users",
                node.name()
            )));
        }
        if flags.read_only && !old.read_only {
            node.driver().flush().map_err(|error| Error::generic(host::reason(&error)))?;
            node.driver().reopen(&flags)?;
            self.reopen_files(node, flags).inspect_err(|_| _ = node.driver().reopen(&old))?;
        } else {
            self.reopen_files(node, flags)?;
            node.driver().reopen(&flags).inspect_err(|_| _ = self.reopen_files(node, old))?;
        }
        node.set_ways(flags, detect);
        Ok(())
    }

    /// Lets the files of a node follow it.
    fn reopen_files(&self, node: &Arc<Node>, to: Flags) -> Result<()> {
        let links: Vec<_> = node.links().into_iter().filter(|(r, _)| *r != "backing").collect();
        for (_, link) in links {
            let file = link.node();
            let how = link.how();
            let wants = Use { writes: !to.read_only, ..how };
            if to.read_only {
                link.set_how(wants);
            }
            let own = self.is_named(&file);
            // A file that was itself asked for as read-only does not follow.
            let asked_for = |v: qapi::Value| v.as_bool() == Some(true) || v.as_str() == Some("on");
            if !to.read_only
                && !own
                && file.is_read_only()
                && file.given("read-only").is_some_and(asked_for)
            {
                return Err(Error::generic("Block node is read-only"));
            }
            let follows = !own || (file.flags().auto_read_only && file.is_read_only());
            let old = file.flags();
            // What a file was given itself stays.
            let keeps =
                |name: &str| own || file.given("cache").is_some_and(|c| c.get(name).is_some());
            let flags = Flags {
                read_only: to.read_only,
                direct: if keeps("direct") { old.direct } else { to.direct },
                no_flush: if keeps("no-flush") { old.no_flush } else { to.no_flush },
                ..old
            };
            let ways = |f: Flags| (f.read_only, f.direct, f.no_flush);
            if ways(old) != ways(flags) && follows && !(own && to.read_only) {
                let done = self.reopen_as(&file, flags, file.detect_zeroes());
                done.inspect_err(|_| link.set_how(how))?;
            }
            if !to.read_only {
                if file.is_read_only() {
                    let text = format!("Block node '{}' is read-only", file.name());
                    return Err(Error::generic(text));
                }
                file.may_use(&link, wants)?;
                link.set_how(wants);
            }
        }
        Ok(())
    }
}
