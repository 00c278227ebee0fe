//! Filters on network links: `filter-dump` (a file in pcap format), `filter-buffer` (delays),
//! `filter-mirror` (copies to a character back end) and `filter-redirector` (sends frames there
//! and takes others from there).
//!
//! On a character back end each frame follows its length in four bytes, big-endian, and with
//! `vnet_hdr_support` the length of the header that comes first in four more.
//! Not here: `filter-rewriter`, `filter-replay`, `colo-compare`.
//! Sources: QEMU's manual page, "Generic object creation"; draft-ietf-opsawg-pcap for the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use derive::Qapi;
use device::{CharEvent, CharPort, CharReceiver, ObjectBuild, ObjectClass, ObjectType};
use net::link::{MAX_FRAME, Place};
use net::stream::Deframer;
use net::{Bytes, Direction, Filter, Frame, Link, Netdevs, Offload, Verdict};
use parking_lot::Mutex;
use qapi::{Error, Result};

/// The class of `filter-dump`.
pub static DUMP: ObjectClass = ObjectClass::of::<Attached<Dump>>();
/// The class of `filter-buffer`.
pub static BUFFER: ObjectClass = ObjectClass::of::<Attached<Buffer>>();
/// The class of `filter-mirror`.
pub static MIRROR: ObjectClass = ObjectClass::of::<Attached<Mirror>>();
/// The class of `filter-redirector`.
pub static REDIRECTOR: ObjectClass = ObjectClass::of::<Attached<Redirector>>();

/// A number of 32 bits that the help calls so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u32);

impl qapi::Qapi for Word {
    fn type_info() -> &'static qapi::TypeInfo {
        static INFO: qapi::TypeInfo =
            qapi::TypeInfo { name: "uint32", doc: "", kind: qapi::Kind::Any };
        &INFO
    }
    fn from_value(value: qapi::Value, source: qapi::Source) -> Result<Self> {
        u32::from_value(value, source).map(Word)
    }
    fn to_value(&self) -> qapi::Value {
        qapi::Qapi::to_value(&self.0)
    }
}

/// Which frames a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "NetFilterDirection")]
pub enum Queue {
    /// All.
    All,
    /// Those that the back end receives: the guest's.
    Rx,
    /// Those that the back end sends to the guest.
    Tx,
}

/// Properties of all filters.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text either")]
pub struct Common {
    pub netdev: String,
    pub queue: Option<Queue>,
    pub status: Option<String>,
    pub position: Option<String>,
    pub insert: Option<String>,
}

impl Common {
    fn sees(&self, direction: Direction) -> bool {
        match self.queue.unwrap_or(Queue::All) {
            Queue::All => true,
            Queue::Rx => direction == Direction::FromGuest,
            Queue::Tx => direction == Direction::ToGuest,
        }
    }

    /// Where it stands, and whether it is on.
    fn check(&self) -> Result<(Place, bool)> {
        let on = is_on(self.status.as_deref().unwrap_or("on"))?;
        let before = match self.insert.as_deref() {
            None | Some("behind") => false,
            Some("before") => true,
            Some(other) => {
                let text = format!("Parameter 'insert' does not accept value '{other}'");
                return Err(Error::generic(text));
            }
        };
        let position = self.position.as_deref().unwrap_or("tail");
        let place = match (position, position.strip_prefix("id=")) {
            ("tail", _) => Place::Tail,
            ("head", _) => Place::Head,
            (_, Some(name)) if before => Place::Before(name.to_owned()),
            (_, Some(name)) => Place::Behind(name.to_owned()),
            _ => return Err(Error::expects("position", "'head', 'tail' or 'id=<id>'")),
        };
        Ok((place, on))
    }
}

fn is_on(status: &str) -> Result<bool> {
    match status {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => {
            let text = "Invalid value for netfilter status, should be 'on' or 'off'";
            Err(Error::generic(text))
        }
    }
}

/// What a kind of filter is.
pub trait FilterKind: Filter + Sized + 'static {
    /// Name of the type.
    const NAME: &'static str;
    /// One line.
    const SUMMARY: &'static str;
    /// Its properties.
    type Props: qapi::Qapi;
    /// Those of all filters among them.
    fn common(props: &Self::Props) -> &Common;
    /// Makes one on a link.
    ///
    /// # Errors
    /// What is wrong with the properties.
    fn make(props: Self::Props, link: &Arc<Link>, table: &Netdevs) -> Result<Arc<Self>>;
    /// It was put on its link.
    fn attached(_: &Arc<Self>) {}
    /// Sets a property of its own; `false`: there is none of that name that can be set.
    ///
    /// # Errors
    /// The value does not do.
    fn set(&self, name: &str, value: &qapi::Value) -> Result<bool> {
        _ = (name, value);
        Ok(false)
    }
}

/// A filter on its link; when it is dropped, it is taken off.
pub struct Attached<F> {
    filter: Arc<dyn Filter>,
    link: Weak<Link>,
    kind: std::marker::PhantomData<F>,
}

impl<F> Drop for Attached<F> {
    fn drop(&mut self) {
        if let Some(link) = self.link.upgrade() {
            link.remove_filter(&self.filter);
        }
    }
}

impl<F: FilterKind> ObjectType for Attached<F> {
    const NAME: &'static str = F::NAME;
    const SUMMARY: &'static str = F::SUMMARY;
    const EARLY: bool = false;
    type Props = F::Props;

    fn create(props: F::Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let common = F::common(&props);
        let (place, on) = common.check()?;
        let unknown = || Error::expects("netdev", "a network backend id");
        let table = at.service::<Arc<Netdevs>>().ok_or_else(unknown)?;
        let link = table.find(&common.netdev).ok_or_else(unknown)?;
        let kind = F::make(props, &link, &table)?;
        let filter: Arc<dyn Filter> = kind.clone();
        link.add_filter(at.id(), filter.clone(), &place, on)?;
        F::attached(&kind);
        let link = Arc::downgrade(&link);
        let (wire, own) = (link.clone(), filter.clone());
        at.offer(device::Setter(Arc::new(move |name, value| {
            let Some(status) = value.as_str().filter(|_| name == "status") else {
                return kind.set(name, value);
            };
            let on = is_on(status)?;
            if let Some(link) = wire.upgrade() {
                link.switch_filter(&own, on);
            }
            Ok(true)
        })));
        Ok(Arc::new(Attached { filter, link, kind: std::marker::PhantomData }))
    }
}

/// Properties of `filter-dump`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text either")]
pub struct DumpProps {
    #[qapi(flatten)]
    pub common: Common,
    pub file: String,
    #[qapi(default = 65536)]
    pub maxlen: Word,
}

/// Writes frames to a file.
pub struct Dump {
    props: DumpProps,
    file: Mutex<File>,
}

/// The file's header: magic number, version 2.4, zone, accuracy, length, Ethernet.
fn pcap_header(maxlen: u32) -> Vec<u8> {
    let mut header = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
    header.extend([2u16, 4].into_iter().flat_map(u16::to_ne_bytes));
    header.extend([0, 0, maxlen, 1].into_iter().flat_map(u32::to_ne_bytes));
    header
}

impl FilterKind for Dump {
    const NAME: &'static str = "filter-dump";
    const SUMMARY: &'static str = "writes frames to a file";
    type Props = DumpProps;
    fn common(props: &DumpProps) -> &Common {
        &props.common
    }
    fn make(props: DumpProps, _: &Arc<Link>, _: &Netdevs) -> Result<Arc<Dump>> {
        let path = props.file.clone();
        let fail = |error: std::io::Error| {
            Error::generic(format!("net dump: can't open {path}: {}", host::reason(&error)))
        };
        let mut file = File::create(&path).map_err(fail)?;
        file.write_all(&pcap_header(props.maxlen.0)).map_err(|error| {
            Error::generic(format!("net dump write error: {}", host::reason(&error)))
        })?;
        Ok(Arc::new(Dump { props, file: Mutex::new(file) }))
    }
}

impl Filter for Dump {
    fn pass(&self, _: &Link, direction: Direction, frame: &Frame<'_>) -> Verdict {
        if self.props.common.sees(direction) {
            let most = usize::try_from(self.props.maxlen.0).unwrap_or(MAX_FRAME);
            let data = frame.to_vec(most.min(MAX_FRAME));
            let now = host::realtime_ns();
            let seconds = u32::try_from(now.div_euclid(1_000_000_000)).unwrap_or(0);
            let micros = u32::try_from(now.rem_euclid(1_000_000_000) / 1000).unwrap_or(0);
            let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let words = [seconds, micros, len(data.len()), len(frame.len())];
            let mut record: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
            record.extend(data);
            // A full disk loses frames of the dump, not of the guest.
            _ = self.file.lock().write_all(&record);
        }
        Verdict::Pass
    }
}

/// Properties of `filter-buffer`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text either")]
pub struct BufferProps {
    #[qapi(flatten)]
    pub common: Common,
    pub interval: Word,
}

fn positive(interval: Word) -> Result<u32> {
    let text = "Property 'filter-buffer.interval' requires a positive value";
    if interval.0 > 0 { Ok(interval.0) } else { Err(Error::generic(text)) }
}

/// Most bytes that a buffer keeps; what comes beyond passes.
const MAX_KEPT: usize = 64 << 20;

struct Kept {
    direction: Direction,
    offload: Offload,
    bytes: Vec<u8>,
}

/// Keeps frames until a timer lets all of them go.
pub struct Buffer {
    props: BufferProps,
    /// Microseconds between two releases.
    interval: AtomicU32,
    link: Weak<Link>,
    kept: Mutex<(VecDeque<Kept>, usize)>,
    timer: OnceLock<device::Timer>,
    this: Weak<Buffer>,
}

impl Buffer {
    fn release(&self) {
        let kept = std::mem::take(&mut *self.kept.lock()).0;
        let (Some(link), Some(this)) = (self.link.upgrade(), self.this.upgrade()) else { return };
        let own: Arc<dyn Filter> = this;
        for Kept { direction, offload, bytes } in kept {
            let parts: [&[u8]; 1] = [&bytes];
            let frame = Frame { offload, bytes: Bytes::Host(&parts) };
            match direction {
                Direction::FromGuest => link.from_guest_behind(&frame, Some(&own)),
                Direction::ToGuest => _ = link.deliver_behind(&frame, &own),
            }
        }
        link.guest_done();
        link.backend_done();
        self.arm();
    }

    fn arm(&self) {
        if let Some(timer) = self.timer.get() {
            let wait = u64::from(self.interval.load(Ordering::Relaxed)).saturating_mul(1000);
            timer.arm_at(timer.clock().now_ns().saturating_add(wait));
        }
    }
}

impl FilterKind for Buffer {
    const NAME: &'static str = "filter-buffer";
    const SUMMARY: &'static str = "delays frames";
    type Props = BufferProps;
    fn common(props: &BufferProps) -> &Common {
        &props.common
    }
    fn make(props: BufferProps, link: &Arc<Link>, table: &Netdevs) -> Result<Arc<Buffer>> {
        let interval = positive(props.interval)?;
        let buffer = Arc::new_cyclic(|this| Buffer {
            props,
            interval: AtomicU32::new(interval),
            link: Arc::downgrade(link),
            kept: Mutex::default(),
            timer: OnceLock::new(),
            this: this.clone(),
        });
        let weak = Arc::downgrade(&buffer);
        _ = buffer.timer.set(table.context().clock.timer(move || {
            if let Some(buffer) = weak.upgrade() {
                buffer.release();
            }
        }));
        buffer.arm();
        Ok(buffer)
    }
    fn set(&self, name: &str, value: &qapi::Value) -> Result<bool> {
        if name != "interval" {
            return Ok(false);
        }
        let word: Word = qapi::Qapi::from_value(value.clone(), qapi::Source::Json)?;
        // The release that is due stays; the next one is so much later.
        self.interval.store(positive(word)?, Ordering::Relaxed);
        Ok(true)
    }
}

impl Filter for Buffer {
    fn pass(&self, _: &Link, direction: Direction, frame: &Frame<'_>) -> Verdict {
        let mut kept = self.kept.lock();
        if !self.props.common.sees(direction) || kept.1 + frame.len() > MAX_KEPT {
            return Verdict::Pass;
        }
        let bytes = frame.to_vec(MAX_FRAME);
        kept.1 += bytes.len();
        kept.0.push_back(Kept { direction, offload: frame.offload, bytes });
        Verdict::Taken
    }
}

/// Most bytes that wait for a character back end.
const MAX_OUT: usize = 4 << 20;

/// Frames to a character back end, whole or not at all.
struct Out {
    port: CharPort,
    waiting: Mutex<VecDeque<u8>>,
    header: bool,
}

impl Out {
    fn send(&self, frame: &Frame<'_>) {
        let data = frame.to_vec(MAX_FRAME);
        let word = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
        let mut bytes = Vec::with_capacity(data.len() + 18);
        if self.header {
            bytes.extend(word(data.len() + Offload::LEN));
            bytes.extend(word(Offload::LEN));
            bytes.extend(frame.offload.to_bytes());
        } else {
            bytes.extend(word(data.len()));
        }
        bytes.extend(data);
        let mut waiting = self.waiting.lock();
        if waiting.len() + bytes.len() <= MAX_OUT {
            waiting.extend(bytes);
        }
        drop(waiting);
        self.drain();
    }

    fn drain(&self) {
        let mut waiting = self.waiting.lock();
        while !waiting.is_empty() {
            let n = self.port.send(waiting.as_slices().0);
            if n == 0 {
                return;
            }
            waiting.drain(..n);
        }
    }
}

impl CharReceiver for Out {
    fn room(&self) -> usize {
        4096
    }
    fn receive(&self, _: &[u8]) {}
    fn event(&self, event: CharEvent) {
        if matches!(event, CharEvent::Writable | CharEvent::Opened) {
            self.drain();
        }
    }
}

fn out(table: &Netdevs, id: &str, header: bool) -> Result<Arc<Out>> {
    let port = table.context().chardevs.port(id);
    let port = port.map_err(|_| Error::device_not_found(id))?;
    let out = Arc::new(Out { port, waiting: Mutex::default(), header });
    let front: Arc<dyn CharReceiver> = out.clone();
    out.port.on_receive(Arc::downgrade(&front));
    Ok(out)
}

/// Properties of `filter-mirror`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text either")]
pub struct MirrorProps {
    #[qapi(flatten)]
    pub common: Common,
    pub outdev: String,
    #[qapi(name = "vnet_hdr_support")]
    pub vnet_hdr_support: Option<bool>,
}

/// Copies frames to a character back end.
pub struct Mirror {
    props: MirrorProps,
    out: Arc<Out>,
}

impl FilterKind for Mirror {
    const NAME: &'static str = "filter-mirror";
    const SUMMARY: &'static str = "copies frames to a character back end";
    type Props = MirrorProps;
    fn common(props: &MirrorProps) -> &Common {
        &props.common
    }
    fn make(props: MirrorProps, _: &Arc<Link>, table: &Netdevs) -> Result<Arc<Mirror>> {
        let out = out(table, &props.outdev, props.vnet_hdr_support == Some(true))?;
        Ok(Arc::new(Mirror { props, out }))
    }
}

impl Filter for Mirror {
    fn pass(&self, _: &Link, direction: Direction, frame: &Frame<'_>) -> Verdict {
        if self.props.common.sees(direction) {
            self.out.send(frame);
        }
        Verdict::Pass
    }
}

/// Properties of `filter-redirector`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no text either")]
pub struct RedirectorProps {
    #[qapi(flatten)]
    pub common: Common,
    pub indev: Option<String>,
    pub outdev: Option<String>,
    #[qapi(name = "vnet_hdr_support")]
    pub vnet_hdr_support: Option<bool>,
}

/// Sends frames to one character back end and takes others from another.
pub struct Redirector {
    props: RedirectorProps,
    out: Option<Arc<Out>>,
    input: Option<CharPort>,
    link: Weak<Link>,
    bytes: Mutex<Deframer>,
    this: Weak<Redirector>,
}

impl FilterKind for Redirector {
    const NAME: &'static str = "filter-redirector";
    const SUMMARY: &'static str = "exchanges frames with character back ends";
    type Props = RedirectorProps;
    fn common(props: &RedirectorProps) -> &Common {
        &props.common
    }
    fn make(props: RedirectorProps, link: &Arc<Link>, table: &Netdevs) -> Result<Arc<Redirector>> {
        if props.indev.is_none() && props.outdev.is_none() {
            let text = "filter redirector needs 'indev' or 'outdev' at least one property set";
            return Err(Error::generic(text));
        }
        if props.indev.is_some() && props.indev == props.outdev {
            let text = "'indev' and 'outdev' could not be same for filter redirector";
            return Err(Error::generic(text));
        }
        let header = props.vnet_hdr_support == Some(true);
        let out = props.outdev.as_ref().map(|id| out(table, id, header)).transpose()?;
        let input = match &props.indev {
            None => None,
            Some(id) => {
                let port = table.context().chardevs.port(id);
                Some(port.map_err(|_| Error::device_not_found(id))?)
            }
        };
        Ok(Arc::new_cyclic(|this| Redirector {
            props,
            out,
            input,
            link: Arc::downgrade(link),
            bytes: Mutex::default(),
            this: this.clone(),
        }))
    }
    fn attached(this: &Arc<Redirector>) {
        if let Some(port) = &this.input {
            let front: Arc<dyn CharReceiver> = this.clone();
            port.on_receive(Arc::downgrade(&front));
        }
    }
}

impl Filter for Redirector {
    fn pass(&self, _: &Link, direction: Direction, frame: &Frame<'_>) -> Verdict {
        match &self.out {
            Some(out) if self.props.common.sees(direction) => {
                out.send(frame);
                Verdict::Taken
            }
            _ => Verdict::Pass,
        }
    }
}

impl Redirector {
    fn inject(&self, link: &Link, bytes: &[u8]) {
        let Some(this) = self.this.upgrade() else { return };
        let own: Arc<dyn Filter> = this;
        let (mut data, mut offload) = (bytes, Offload::default());
        if self.props.vnet_hdr_support == Some(true)
            && let Some((head, rest)) = bytes.split_first_chunk::<{ Offload::LEN }>()
        {
            (offload, data) = (Offload::from_bytes(*head), rest);
        }
        let frame = Frame { offload, bytes: Bytes::Host(&[data]) };
        if self.props.common.sees(Direction::ToGuest) {
            link.deliver_behind(&frame, &own);
            link.backend_done();
        }
        if self.props.common.sees(Direction::FromGuest) {
            link.from_guest_behind(&frame, Some(&own));
            link.guest_done();
        }
    }
}

impl CharReceiver for Redirector {
    fn room(&self) -> usize {
        4096
    }
    fn receive(&self, data: &[u8]) {
        let Some(link) = self.link.upgrade() else { return };
        let mut frames = Vec::new();
        {
            let mut bytes = self.bytes.lock();
            bytes.push(data);
            loop {
                match bytes.peek() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(_) => {
                        // There is no way to find the next frame.
                        *bytes = Deframer::default();
                        break;
                    }
                }
                bytes.pop();
            }
        }
        for frame in frames {
            self.inject(&link, &frame);
        }
    }
    fn event(&self, event: CharEvent) {
        if event == CharEvent::Closed {
            *self.bytes.lock() = Deframer::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(queue: Option<Queue>, status: Option<&str>) -> Common {
        Common {
            netdev: "n".into(),
            queue,
            status: status.map(str::to_owned),
            position: None,
            insert: None,
        }
    }

    #[test]
    fn filters_see_their_direction_only() {
        let both = [Direction::FromGuest, Direction::ToGuest];
        let seen = |c: Common| both.map(|direction| c.sees(direction));
        assert_eq!(seen(common(None, None)), [true, true]);
        assert_eq!(seen(common(Some(Queue::Rx), None)), [true, false]);
        assert_eq!(seen(common(Some(Queue::Tx), Some("on"))), [false, true]);
        assert_eq!(common(None, Some("off")).check().unwrap(), (Place::Tail, false));
        assert!(common(None, Some("maybe")).check().is_err());
        let beside = |insert: Option<&str>| {
            let position = Some("id=f".to_owned());
            let insert = insert.map(str::to_owned);
            Common { position, insert, ..common(None, None) }.check().map(|(place, _)| place)
        };
        assert_eq!(beside(None).unwrap(), Place::Behind("f".into()));
        assert_eq!(beside(Some("before")).unwrap(), Place::Before("f".into()));
        assert!(beside(Some("x")).is_err());
    }

    #[test]
    fn a_dump_is_a_pcap_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.pcap");
        let file = path.to_string_lossy().into_owned();
        let props = DumpProps { common: common(None, None), file, maxlen: Word(4) };
        let events = evloop::EventLoop::new().unwrap();
        let link = Link::new("n", "user", events.handle());
        let file = File::create(&path).unwrap();
        (&file).write_all(&pcap_header(4)).unwrap();
        let dump = Dump { props, file: Mutex::new(file) };
        let verdict = dump.pass(&link, Direction::ToGuest, &Frame::plain(&[&[1, 2, 3, 4, 5]]));
        assert_eq!(verdict, Verdict::Pass);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
        assert_eq!(bytes.len(), 24 + 16 + 4);
        assert_eq!(bytes[32..40], [4u32, 5].map(u32::to_ne_bytes).concat()[..]);
        assert_eq!(bytes[40..], [1, 2, 3, 4]);
    }
}
