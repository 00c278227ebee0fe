//! `create`: a new file, or a new image in a node that exists.
//!
//! Formats write their image to a temporary file that nobody sees; its bytes then replace those of
//! the node, which keeps its lock. The length of the node becomes the image's.
//! Not modelled: data files (the format wants them by name); `nocow`, `extent-size-hint`.
//! Source: QEMU's QMP reference, blockdev-create.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use block::{BlockClass, Creation, Node, Preallocation};
use qapi::{Error, Result};

use crate::job::{Failure, Job, Work};

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

/// Where the image is made.
pub enum Target {
    /// A file of the host, made anew.
    File,
    /// A node.
    Node(Arc<Node>),
}

/// What is made.
pub struct Creating {
    /// The format; of a file: raw.
    pub class: &'static BlockClass,
    /// The image.
    pub image: Creation,
    /// Where.
    pub target: Target,
}

fn failed(error: &io::Error) -> Error {
    Error::generic(host::reason(error))
}

/// A new file without a name in the folder for temporary files.
fn temporary() -> io::Result<File> {
    let dir = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let mut random = [0; 8];
    host::fill_random(&mut random)?;
    let name = format!("image.{:016x}", u64::from_ne_bytes(random));
    let path = std::path::Path::new(&dir).join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl Creating {
    fn make(&mut self) -> Result<()> {
        let create = self.class.create.ok_or_else(|| {
            let name = self.class.name;
            Error::generic(format!("Driver '{name}' does not support blockdev-create"))
        })?;
        let Target::Node(node) = &self.target else { return create(&self.image) };
        let file = temporary().map_err(|error| failed(&error))?;
        self.image.filename = format!("/proc/self/fd/{}", file.as_raw_fd());
        create(&self.image)?;
        fill(&file, node).map_err(|error| failed(&error))
    }
}

/// Makes a node hold what a file holds.
fn fill(file: &File, node: &Node) -> io::Result<()> {
    let len = file.metadata()?.len();
    let driver = node.driver();
    if node.is_read_only() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // Emptied first, so that holes of the image are holes of the node.
    driver.truncate(0, Preallocation::Off)?;
    driver.truncate(len, Preallocation::Off)?;
    let mut at = 0;
    while let Some(data) = if at < len { host::next_data(file, at)? } else { None } {
        let end = host::next_hole(file, data)?.unwrap_or(len).min(len);
        at = data;
        while at < end {
            let n = usize::try_from((end - at).min(PIECE)).unwrap_or(0);
            let mut bytes = vec![0; n];
            file.read_exact_at(&mut bytes, at)?;
            driver.write(at, &bytes)?;
            at += n as u64;
        }
    }
    driver.flush()
}

impl Work for Creating {
    fn total(&self) -> u64 {
        1
    }
    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure> {
        let made = self.make().map_err(Failure::Failed);
        job.add_progress(1);
        made
    }
}
