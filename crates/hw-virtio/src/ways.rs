//! Which thread serves a queue of a disk controller, and through which lane of the block layer.
//!
//! With `iothread` all queues are served by one thread, with `iothread-vq-mapping` each by the one
//! that the list names; without either, requests are taken where the guest notifies, and end on
//! the block layer's own loop. Not here: the devices.
//! Source: QEMU's manual (`iothread-vq-mapping`), messages of QEMU 10.0.

use std::sync::Arc;

use block::{Graph, Lane};
use derive::Qapi;
use device::{Build, Held};
use parking_lot::RwLock;
use qapi::Error;
use virtio::{Chain, Kick, Queue};

pci::named_property!(
    /// The name of an I/O thread.
    ThreadLink, "link<iothread>"
);

/// Which I/O thread serves which queues.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "IOThreadVirtQueueMapping")]
pub struct Mapping {
    /// The I/O thread's id.
    pub iothread: String,
    /// Its queues; without them all are dealt out in turn.
    pub vqs: Option<Vec<u16>>,
}

/// How one queue is served.
pub(crate) struct Way {
    pub(crate) lane: Arc<Lane>,
    /// Hands notifications to the I/O thread; `None`: served where they come.
    pub(crate) kick: Option<Kick>,
    _thread: Option<Held<evloop::Handle>>,
    /// Read while requests are taken.
    serving: RwLock<()>,
}

impl Way {
    /// Waits until nobody takes requests; for queues that give none any more.
    pub(crate) fn still(&self) {
        drop(self.serving.write());
    }
}

/// Takes all requests of a queue and begins them; the kernel sees them together.
/// `all` is told when the queue has no more, before they do.
pub(crate) fn serve(way: &Way, queue: &Arc<Queue>, begin: impl Fn(Chain), all: impl Fn()) {
    let _serving = way.serving.read();
    loop {
        let mut taken = false;
        while let Some(chain) = queue.pop() {
            taken = true;
            begin(chain);
        }
        all();
        way.lane.flush();
        if !taken {
            return;
        }
    }
}

/// How many queues a disk controller has whose number is chosen for it: on PCI one for each CPU,
/// as far as the transport has room beside `others`.
pub(crate) fn queues_by_cpus(at: &Build<'_>, others: u16) -> u16 {
    const MOST: u16 = 1024;
    if at.parent_bus::<pci::PciBus>().is_none() {
        return 1;
    }
    let cpus = at.service::<device::CpuCount>().map_or(1, |count| count.0);
    u16::try_from(cpus).unwrap_or(MOST).clamp(1, MOST - others)
}

/// The thread of each queue by the mapping.
fn deal(mapping: &[Mapping], queues: u16) -> qapi::Result<Vec<String>> {
    let fail = |text: String| Err(Error::generic(text));
    let explicit = mapping.first().is_some_and(|m| m.vqs.is_some());
    let mut names: Vec<Option<String>> = vec![None; queues.into()];
    for (at, entry) in mapping.iter().enumerate() {
        if mapping.iter().take(at).any(|other| other.iothread == entry.iothread) {
            return fail(format!(
                "duplicate IOThread name \"{}\" in iothread-vq-mapping",
                entry.iothread
            ));
        }
        if entry.vqs.is_some() != explicit {
            return fail("either all items in iothread-vq-mapping must have vqs or none of them must have it".into());
        }
        for vq in entry.vqs.iter().flatten() {
            match names.get_mut(usize::from(*vq)) {
                None => {
                    return fail(format!(
                        "vq index {vq} for IOThread \"{}\" must be less than num_queues {queues} in iothread-vq-mapping",
                        entry.iothread
                    ));
                }
                Some(Some(_)) => {
                    return fail(format!(
                        "cannot assign vq {vq} to IOThread \"{}\" because it is already assigned",
                        entry.iothread
                    ));
                }
                Some(place) => *place = Some(entry.iothread.clone()),
            }
        }
    }
    if !explicit {
        for (place, entry) in names.iter_mut().zip(mapping.iter().cycle()) {
            *place = Some(entry.iothread.clone());
        }
    }
    let missing = names.iter().position(Option::is_none);
    if let Some(vq) = missing {
        return fail(format!("missing vq {vq} IOThread assignment in iothread-vq-mapping"));
    }
    Ok(names.into_iter().flatten().collect())
}

/// The ways of `count` queues from number `first` on.
pub(crate) fn ways(
    (iothread, mapping): (Option<&ThreadLink>, Option<&[Mapping]>),
    (first, count): (u16, u16),
    graph: &Graph,
    at: &Build<'_>,
    serve: &(impl Fn(u16) + Clone + Send + Sync + 'static),
) -> qapi::Result<Vec<Way>> {
    let names: Vec<Option<String>> = match (iothread, mapping) {
        (Some(link), _) => vec![Some(link.0.clone()); count.into()],
        // A list of none is as if it were not said.
        (None, Some(mapping)) if !mapping.is_empty() => {
            deal(mapping, count)?.into_iter().map(Some).collect()
        }
        (None, _) => vec![None; count.into()],
    };
    let mut all = Vec::new();
    for (index, name) in (first..).zip(names) {
        let Some(name) = name else {
            all.push(Way {
                lane: graph.lane(None),
                kick: None,
                _thread: None,
                serving: RwLock::default(),
            });
            continue;
        };
        let thread =
            at.object::<evloop::Handle>("iothread", &name, "iothread").map_err(|error| {
                let text = format!("IOThread \"{name}\" object does not exist");
                if iothread.is_none() { Error::generic(text) } else { error }
            })?;
        let lane = graph.lane(Some((&name, &thread)));
        let serve = serve.clone();
        let kick = Some(Kick::new(Some((*thread).clone()), move || serve(index)));
        all.push(Way { lane, kick, _thread: Some(thread), serving: RwLock::default() });
    }
    Ok(all)
}
