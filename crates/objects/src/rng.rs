//! Entropy: `rng-builtin` (getrandom(2)) and `rng-random` (a file, device or pipe).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use derive::Qapi;
use device::{Entropy, ObjectBuild, ObjectClass, ObjectType};
use parking_lot::Mutex;

/// The class of `rng-builtin`.
pub static BUILTIN: ObjectClass = ObjectClass::of::<RngBuiltin>();
/// The class of `rng-random`.
pub static RANDOM: ObjectClass = ObjectClass::of::<RngRandom>();

/// Properties of `rng-builtin`.
#[derive(Clone, Debug, Qapi)]
pub struct BuiltinProps {}

/// Properties of `rng-random`.
#[derive(Clone, Debug, Qapi)]
pub struct RandomProps {
    #[expect(missing_docs, reason = "the peer's help has no text either")]
    #[qapi(default = "/dev/urandom")]
    pub filename: String,
}

/// The host's generator.
pub struct RngBuiltin;

impl ObjectType for RngBuiltin {
    const NAME: &'static str = "rng-builtin";
    const SUMMARY: &'static str = "entropy from the host's generator";
    const EARLY: bool = false;
    type Props = BuiltinProps;

    fn create(_: BuiltinProps, at: &mut ObjectBuild<'_>) -> qapi::Result<Arc<Self>> {
        let rng = Arc::new(RngBuiltin);
        at.offer::<Arc<dyn Entropy>>(rng.clone());
        Ok(rng)
    }
}

impl Entropy for RngBuiltin {
    fn fill(&self, out: &mut [u8]) -> io::Result<usize> {
        host::fill_random(out)?;
        Ok(out.len())
    }
}

type Call = Box<dyn FnOnce() + Send>;

/// Entropy from a file.
pub struct RngRandom {
    file: Arc<File>,
    /// Who waits for bytes; the first of them has a thread that watches the file.
    waiting: Arc<Mutex<Vec<Call>>>,
}

impl ObjectType for RngRandom {
    const NAME: &'static str = "rng-random";
    const SUMMARY: &'static str = "entropy from a file";
    const EARLY: bool = false;
    type Props = RandomProps;

    fn create(props: RandomProps, at: &mut ObjectBuild<'_>) -> qapi::Result<Arc<Self>> {
        let name = &props.filename;
        let opened =
            OpenOptions::new().read(true).custom_flags(host::O_NONBLOCK).open(name).map_err(
                |e| qapi::Error::generic(format!("Could not open '{name}': {}", host::reason(&e))),
            )?;
        let rng = Arc::new(RngRandom { file: Arc::new(opened), waiting: Arc::default() });
        at.offer::<Arc<dyn Entropy>>(rng.clone());
        Ok(rng)
    }
}

impl Entropy for RngRandom {
    fn fill(&self, out: &mut [u8]) -> io::Result<usize> {
        match (&*self.file).read(out)? {
            0 if !out.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn when_ready(&self, f: Box<dyn FnOnce() + Send>) {
        let first = {
            let mut waiting = self.waiting.lock();
            waiting.push(f);
            waiting.len() == 1
        };
        if first {
            let (file, waiting) = (Arc::downgrade(&self.file), self.waiting.clone());
            // Without a thread nobody is called: the guest waits, as for an empty pipe.
            _ = evloop::spawn("rng-random", move || {
                while file.upgrade().is_some_and(|file| !is_readable(&file)) {}
                let all = std::mem::take(&mut *waiting.lock());
                all.into_iter().for_each(|f| f());
            });
        }
    }
}

/// Waits a second for bytes.
fn is_readable(file: &Arc<File>) -> bool {
    let Ok(poller) = host::Poller::new() else { return true };
    if poller.add(0, file.clone(), host::Interest::READ).is_err() {
        // A regular file: its end does not move by waiting, so it is looked at once a second.
        let wait = poller.wait(Some(Duration::from_secs(1)));
        return wait.is_err() || file.metadata().is_ok_and(|m| m.len() > 0);
    }
    let found = poller.wait(Some(Duration::from_secs(1)));
    poller.delete(0);
    found.is_ok_and(|events| !events.is_empty())
}
