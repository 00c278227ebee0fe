//! `iothread`: an event loop in a thread of its own.
//!
//! The loop may poll for a while before it sleeps (`poll-max-ns`, `poll-grow`, `poll-shrink`, as
//! in QEMU's manual). `aio-max-batch`, `thread-pool-min` and `thread-pool-max` are kept for the
//! back ends that use the thread ([`IoThread::batch`], [`IoThread::pool`]).

use std::sync::Arc;
use std::thread::JoinHandle;

use derive::Qapi;
use device::{ObjectBuild, ObjectClass, ObjectType};
use evloop::{EventLoop, Handle, Polling};
use parking_lot::Mutex;
use qapi::{Error, Result};

/// The class for the catalog.
pub static CLASS: ObjectClass = ObjectClass::of::<IoThread>();

/// Properties of `iothread`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no texts either")]
pub struct Props {
    #[qapi(name = "poll-max-ns", default = 32768)]
    pub poll_max_ns: i64,
    #[qapi(name = "poll-grow", default = 0)]
    pub poll_grow: i64,
    #[qapi(name = "poll-shrink", default = 0)]
    pub poll_shrink: i64,
    #[qapi(name = "aio-max-batch", default = 0)]
    pub aio_max_batch: i64,
    #[qapi(name = "thread-pool-min", default = 0)]
    pub thread_pool_min: i64,
    #[qapi(name = "thread-pool-max", default = 64)]
    pub thread_pool_max: i64,
}

/// An I/O thread; it ends with the object.
pub struct IoThread {
    props: Props,
    handle: Handle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn checked(name: &str, value: i64) -> Result<u64> {
    u64::try_from(value)
        .map_err(|_| Error::generic(format!("{name} value must be in range [0, {}]", i64::MAX)))
}

impl ObjectType for IoThread {
    const NAME: &'static str = "iothread";
    const SUMMARY: &'static str = "an event loop in a thread of its own";
    type Props = Props;

    fn create(props: Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let polling = Polling {
            max_ns: checked("poll-max-ns", props.poll_max_ns)?,
            grow: checked("poll-grow", props.poll_grow)?,
            shrink: checked("poll-shrink", props.poll_shrink)?,
        };
        checked("aio-max-batch", props.aio_max_batch)?;
        let min = checked("thread-pool-min", props.thread_pool_min)?;
        let max = checked("thread-pool-max", props.thread_pool_max)?;
        if max == 0 || min > max {
            return Err(Error::generic("bad thread-pool-min/thread-pool-max values"));
        }
        let failed = |e: std::io::Error| {
            Error::generic(format!("cannot make an event loop: {}", host::reason(&e)))
        };
        let mut events = EventLoop::new().map_err(failed)?;
        let handle = events.handle();
        // The kernel keeps 15 bytes of a thread's name.
        let thread = evloop::spawn(&format!("IO {}", at.id()), move || {
            _ = events.run_polling(polling);
        });
        let thread = Mutex::new(Some(thread.map_err(failed)?));
        at.offer(handle.clone());
        let object = Arc::new(IoThread { props, handle, thread });
        at.offer(object.clone());
        Ok(object)
    }
}

impl IoThread {
    /// Most requests in one batch; 0: the back end's own limit.
    #[must_use]
    pub fn batch(&self) -> i64 {
        self.props.aio_max_batch
    }

    /// Fewest and most threads for blocking work.
    #[must_use]
    pub fn pool(&self) -> (i64, i64) {
        (self.props.thread_pool_min, self.props.thread_pool_max)
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.handle.quit();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            _ = thread.join();
        }
    }
}
