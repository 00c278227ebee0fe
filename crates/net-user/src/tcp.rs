//! The TCP end that the guest talks to (RFC 9293), and the host's socket behind it.
//!
//! The link is memory: frames are neither reordered nor damaged, and are lost only when the
//! guest drops them. So there is no congestion control (RFC 5681), no selective
//! acknowledgement and no store for segments out of order; what is lost is sent again from the
//! first missing byte. Data of the guest goes from its memory straight into the socket, and is
//! kept here only as far as the socket does not take it; the window says how much that may be.
//! Data for the guest is kept until it is acknowledged.
//! Sources: RFC 9293, 7323 (window scale), 6298 (timer; a fixed first value).

mod saved;

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use evloop::{Readiness, Watch};
use host::socket::Stream;
use net::{Bytes, Frame};

use crate::out::{Out, Wish, put};
use crate::ring::Ring;
use crate::wire::{self, ACK, FIN, PSH, RST, SYN, Segment};

pub(crate) use saved::{ConnState, ip_number, number_ip};

/// Most bytes that wait for the socket, and the window.
const TO_HOST: usize = 1 << 20;
/// Most bytes that were read from the socket and not acknowledged.
const TO_GUEST: usize = 1 << 20;
/// Our window scale.
const SHIFT: u8 = 7;
/// First and longest time until something is sent again, in nanoseconds.
const RTO: u64 = 1_000_000_000;
const MAX_RTO: u64 = 60_000_000_000;
/// So many times it is tried.
const TRIES: u32 = 8;
/// Most payload of a segment that the guest splits itself.
const LONG: usize = 64_000;

/// Who talks to whom: the guest's end and the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host's socket is being connected.
    Connecting,
    /// We answered a SYN.
    SynReceived,
    /// We sent a SYN to the guest.
    SynSent,
    Open,
    /// Nothing more comes.
    Closed,
}

/// The host's side.
pub(crate) struct Host {
    stream: Arc<Stream>,
    watch: Option<Watch>,
    interest: Readiness,
    /// Both directions are closed on the other side: the socket is always ready and is not
    /// watched any more.
    hung: bool,
}

impl Host {
    pub(crate) fn new(stream: Arc<Stream>, watch: Option<Watch>, interest: Readiness) -> Host {
        Host { stream, watch, interest, hung: false }
    }

    /// How connecting ended.
    pub(crate) fn connect_result(&self) -> std::io::Result<()> {
        match &*self.stream {
            Stream::Tcp(stream) => match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(()),
            },
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Number of the descriptor, for people.
    pub(crate) fn fd(&self) -> i32 {
        self.stream.as_fd().as_raw_fd()
    }

    fn want(&mut self, interest: Readiness) {
        if self.interest != interest {
            self.interest = interest;
            if let Some(watch) = &self.watch {
                watch.set_interest(interest);
            }
        }
    }
}

/// One connection.
pub(crate) struct Conn {
    pub(crate) pair: Pair,
    phase: Phase,
    pub(crate) host: Option<Host>,
    rcv_next: u32,
    /// Right edge of the window that the guest was told.
    rcv_edge: u32,
    snd_una: u32,
    snd_next: u32,
    /// Beyond the highest that was ever sent.
    snd_max: u32,
    snd_window: usize,
    /// The guest's window scale; `None`: it does none.
    scale: Option<u8>,
    mss: usize,
    to_guest: Ring,
    to_host: Ring,
    host_eof: bool,
    fin_sent: bool,
    /// What acknowledges our FIN.
    fin_end: Option<u32>,
    guest_fin: bool,
    host_shut: bool,
    ack_due: bool,
    duplicates: u32,
    deadline: Option<u64>,
    tries: u32,
    /// Time of the last packet, for letting memory go.
    used: u64,
    /// Bytes that came from the host.
    pulled: u64,
}

fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

fn as_len(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn as_seq(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn link_mss(pair: &Pair) -> usize {
    if pair.guest.is_ipv4() { 1460 } else { 1440 }
}

impl Conn {
    fn new(pair: Pair, phase: Phase, initial: u32, now: u64) -> Conn {
        Conn {
            pair,
            phase,
            host: None,
            rcv_next: 0,
            rcv_edge: 0,
            snd_una: initial,
            snd_next: initial,
            snd_max: initial.wrapping_add(1),
            snd_window: 0,
            scale: None,
            mss: 536,
            to_guest: Ring::default(),
            to_host: Ring::default(),
            host_eof: false,
            fin_sent: false,
            fin_end: None,
            guest_fin: false,
            host_shut: false,
            ack_due: false,
            duplicates: 0,
            deadline: None,
            tries: 0,
            used: now,
            pulled: 0,
        }
    }

    /// The guest wants a connection; the socket is connected first.
    pub(crate) fn by_guest(segment: &Segment, initial: u32, now: u64) -> Conn {
        let pair = Pair { guest: segment.from, remote: segment.to };
        let mut conn = Conn::new(pair, Phase::Connecting, initial, now);
        conn.rcv_next = segment.seq.wrapping_add(1);
        conn.rcv_edge = conn.rcv_next;
        conn.peer_options(segment);
        conn
    }

    /// Somebody of the host wants a connection to the guest.
    pub(crate) fn by_host(pair: Pair, initial: u32, now: u64) -> Conn {
        Conn::new(pair, Phase::SynSent, initial, now)
    }

    fn peer_options(&mut self, segment: &Segment) {
        self.mss = usize::from(segment.mss.unwrap_or(536)).clamp(64, link_mss(&self.pair));
        self.scale = segment.scale;
        self.snd_window = segment.window.into();
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the socket is still being connected.
    pub(crate) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether the guest has not answered yet.
    pub(crate) fn waits_for_guest(&self) -> bool {
        self.phase == Phase::SynSent
    }

    /// What `info usernet` calls its state.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Connecting | Phase::SynReceived => "SYN_RCVD",
            Phase::SynSent => "SYN_SENT",
            Phase::Open => match (self.guest_fin, self.fin_sent) {
                (false, false) => "ESTABLISHED",
                (true, false) => "CLOSE_WAIT",
                (false, true) => "FIN_WAIT_2",
                (true, true) => "LAST_ACK",
            },
            Phase::Closed => "CLOSED",
        }
    }

    /// Bytes waiting for the guest and for the host.
    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.to_guest.len(), self.to_host.len())
    }

    /// The host's socket is there: the guest's SYN is answered.
    pub(crate) fn connected(&mut self, out: &mut Out, now: u64) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::SynReceived;
            self.snd_next = self.snd_una.wrapping_add(1);
            self.send_syn(out);
            self.arm(now);
        }
    }

    /// Sends the SYN of a connection to the guest.
    pub(crate) fn begin(&mut self, out: &mut Out, now: u64) {
        self.snd_next = self.snd_una.wrapping_add(1);
        self.send_syn(out);
        self.arm(now);
    }

    fn arm(&mut self, now: u64) {
        let wait = RTO.checked_shl(self.tries).unwrap_or(MAX_RTO).min(MAX_RTO);
        self.deadline = Some(now.saturating_add(wait));
    }

    fn window(&self) -> usize {
        TO_HOST.saturating_sub(self.to_host.len())
    }

    fn send_syn(&mut self, out: &mut Out) {
        let active = self.phase == Phase::SynSent;
        let flags = if active { SYN } else { SYN | ACK };
        let with_scale = active || self.scale.is_some();
        let mut header = [0; 28];
        let mss = as_seq(link_mss(&self.pair)).to_be_bytes();
        put(&mut header, 20, &[2, 4, 0, 0, 1, 3, 3, SHIFT]);
        put(&mut header, 22, mss.get(2..).unwrap_or_default());
        let len = if with_scale { 28 } else { 24 };
        let header = header.get_mut(..len).unwrap_or_default();
        let window = self.window().min(0xffff);
        self.rcv_edge = self.rcv_next.wrapping_add(as_seq(window));
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        self.finish(out, header, self.snd_una, flags, window);
    }

    /// Fills in a header and sends it without data.
    fn finish(&self, out: &mut Out, header: &mut [u8], seq: u32, flags: u8, window: u16) {
        fill(header, self.pair, (seq, self.rcv_next), flags, window);
        let wish = Wish { checksum: Some(16), ..Wish::default() };
        let Pair { guest, remote } = self.pair;
        out.packet((remote.ip(), guest.ip()), wire::TCP, header, [&[], &[]], wish);
    }

    /// The window field, and remembers its edge.
    fn tell_window(&mut self) -> u16 {
        let shift = if self.scale.is_some() { SHIFT } else { 0 };
        let field = (self.window() >> shift).min(0xffff);
        self.rcv_edge = self.rcv_next.wrapping_add(as_seq(field << shift));
        self.ack_due = false;
        u16::try_from(field).unwrap_or(u16::MAX)
    }

    fn send_ack(&mut self, out: &mut Out) {
        let window = self.tell_window();
        self.finish(out, &mut [0; 20], self.snd_next, ACK, window);
    }

    /// Breaks the connection, and tells the guest.
    pub(crate) fn reset(&mut self, out: &mut Out) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.finish(out, &mut [0; 20], self.snd_next, RST | ACK, 0);
        }
        self.host = None;
    }

    /// A segment of the guest; its payload is in `frame`.
    pub(crate) fn input(&mut self, out: &mut Out, segment: &Segment, frame: &Frame<'_>, now: u64) {
        self.used = now;
        if segment.flags & RST != 0 {
            // 9293, 3.5.3: only one that fits the window counts.
            let fits = segment.seq == self.rcv_next
                || (self.phase == Phase::SynSent && segment.ack == self.snd_next);
            if fits {
                self.phase = Phase::Closed;
                self.host = None;
            }
            return;
        }
        match self.phase {
            Phase::Connecting | Phase::Closed => return,
            Phase::SynSent => return self.input_syn_sent(out, segment, now),
            Phase::SynReceived | Phase::Open => {}
        }
        if segment.flags & SYN != 0 {
            // The guest did not hear the answer, or is not in step.
            if self.phase == Phase::SynReceived {
                self.send_syn(out);
            } else {
                self.ack_due = true;
            }
            return;
        }
        if segment.flags & ACK == 0 {
            return;
        }
        self.acknowledged(segment, now);
        if self.phase == Phase::Open {
            self.take(segment, frame);
            if self.host.as_ref().is_some_and(|host| host.hung) {
                self.pull(out);
            }
            self.output(out, now);
            self.settle();
        }
    }

    fn input_syn_sent(&mut self, out: &mut Out, segment: &Segment, now: u64) {
        let answer = segment.flags & (SYN | ACK) == SYN | ACK;
        if !answer || segment.ack != self.snd_next {
            return;
        }
        self.peer_options(segment);
        self.rcv_next = segment.seq.wrapping_add(1);
        self.snd_una = self.snd_next;
        self.phase = Phase::Open;
        self.deadline = None;
        self.tries = 0;
        self.send_ack(out);
        self.want();
        self.output(out, now);
    }

    fn acknowledged(&mut self, segment: &Segment, now: u64) {
        let scale = if self.phase == Phase::Open { self.scale.unwrap_or(0) } else { 0 };
        let window = usize::from(segment.window) << scale;
        let ack = segment.ack;
        if after(ack, self.snd_max) {
            self.ack_due = true;
            return;
        }
        if self.phase == Phase::SynReceived {
            if ack != self.snd_next {
                return;
            }
            self.phase = Phase::Open;
            self.snd_una = ack;
            self.deadline = None;
            self.tries = 0;
            self.snd_window = usize::from(segment.window) << self.scale.unwrap_or(0);
            return;
        }
        let old = !after(ack, self.snd_una);
        if old {
            let same = ack == self.snd_una && window == self.snd_window && segment.len == 0;
            if same && self.snd_next != self.snd_una {
                self.duplicates += 1;
                // 5681, 3.2: three of them say that a segment was lost.
                if self.duplicates == 3 {
                    self.go_back();
                }
            }
            if ack == self.snd_una {
                self.snd_window = window;
            }
            return;
        }
        let mut n = as_len(ack.wrapping_sub(self.snd_una));
        if self.fin_end == Some(ack) {
            n = n.saturating_sub(1);
            self.fin_sent = true;
        }
        self.to_guest.consume(n);
        self.snd_una = ack;
        if after(ack, self.snd_next) {
            self.snd_next = ack;
        }
        self.snd_window = window;
        self.duplicates = 0;
        self.tries = 0;
        self.deadline = None;
        if self.snd_next != self.snd_una {
            self.arm(now);
        }
    }

    /// Sends again from the first byte that was not acknowledged.
    fn go_back(&mut self) {
        self.snd_next = self.snd_una;
        self.fin_sent = false;
    }

    /// Takes the data of a segment in order.
    fn take(&mut self, segment: &Segment, frame: &Frame<'_>) {
        let fin = segment.flags & FIN != 0;
        if segment.len == 0 && !fin {
            // 9293, 3.8.4: what is not in step is answered, as a keep-alive is.
            self.ack_due |= segment.seq != self.rcv_next;
            return;
        }
        self.ack_due = true;
        // What was taken before is skipped; what leaves a hole is not taken.
        let skip = self.rcv_next.wrapping_sub(segment.seq);
        if after(segment.seq, self.rcv_next) || self.guest_fin {
            return;
        }
        let skip = as_len(skip);
        if skip > segment.len {
            return;
        }
        let room = as_len(self.rcv_edge.wrapping_sub(self.rcv_next));
        let len = (segment.len - skip).min(room);
        if len > 0 {
            self.write_out(frame, segment.start + skip, len);
            self.rcv_next = self.rcv_next.wrapping_add(as_seq(len));
        }
        if fin && len == segment.len - skip {
            self.guest_fin = true;
            self.rcv_next = self.rcv_next.wrapping_add(1);
        }
    }

    fn write_out(&mut self, frame: &Frame<'_>, start: usize, len: usize) {
        let mut done = 0;
        if let (true, Some(host)) = (self.to_host.is_empty() && !self.host_shut, &self.host) {
            done = match frame.bytes {
                Bytes::Ram(parts) => {
                    let parts = ram_pieces(parts, start, len);
                    memory::write_to(host.stream.as_fd(), &parts, None).unwrap_or(0)
                }
                Bytes::Host(_) => {
                    let mut bytes = vec![0; len];
                    frame.copy(start, &mut bytes);
                    (&*host.stream).write(&bytes).unwrap_or(0)
                }
            };
        }
        if done < len {
            let mut rest = vec![0; len - done];
            frame.copy(start + done, &mut rest);
            self.to_host.push(&rest);
        }
    }

    /// Writes what waits for the socket.
    fn drain(&mut self) {
        let Some(host) = &self.host else { return };
        while !self.to_host.is_empty() {
            match (&*host.stream).write_vectored(&self.to_host.slices()) {
                Ok(n) if n > 0 => self.to_host.consume(n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                // The reader finds the reason.
                _ => {
                    self.to_host.consume(usize::MAX);
                    self.host_shut = true;
                    return;
                }
            }
        }
    }

    /// What follows from the state: half-closes, what the socket is watched for, the end.
    fn settle(&mut self) {
        if self.guest_fin && self.to_host.is_empty() && !self.host_shut {
            self.host_shut = true;
            if let Some(host) = &self.host {
                _ = rustix::net::shutdown(&*host.stream, rustix::net::Shutdown::Write);
            }
        }
        let all_acknowledged = self.fin_sent && self.snd_una == self.snd_next;
        if self.guest_fin && all_acknowledged && self.to_host.is_empty() {
            // The last acknowledgement is sent with the batch.
            self.host = None;
        }
        self.want();
    }

    /// Whether both sides are done; the guest's FIN was acknowledged, too.
    fn is_finished(&self) -> bool {
        self.phase == Phase::Open && self.host.is_none() && !self.ack_due
    }

    fn want(&mut self) {
        let room = self.to_guest.len() < TO_GUEST;
        let read = self.phase == Phase::Open && !self.host_eof && room;
        let write = self.phase == Phase::Connecting || !self.to_host.is_empty();
        if let Some(host) = &mut self.host {
            host.want(Readiness { read, write });
        }
    }

    /// The socket is ready.
    pub(crate) fn ready(&mut self, out: &mut Out, ready: Readiness, now: u64) {
        self.used = now;
        if self.phase != Phase::Open && self.phase != Phase::SynReceived {
            return;
        }
        if let Some(host) = self.host.as_mut().filter(|h| h.interest == Readiness::NONE) {
            (host.hung, host.watch) = (true, None);
            return;
        }
        if ready.write {
            let before = self.window();
            self.drain();
            // 9293, 3.8.6.2.2: a window that was small is told when it is not any more.
            let told = as_len(self.rcv_edge.wrapping_sub(self.rcv_next));
            if self.window() > before && told < TO_HOST / 2 && self.window() >= TO_HOST / 2 {
                self.ack_due = true;
            }
        }
        if self.phase != Phase::Open {
            // The host speaks first; it is read when the guest knows of the connection.
            if let Some(host) = &mut self.host {
                host.want(Readiness::NONE);
            }
            return;
        }
        if ready.read {
            self.pull(out);
        }
        if self.phase == Phase::Open {
            self.output(out, now);
            self.settle();
        }
    }

    fn pull(&mut self, out: &mut Out) {
        let Some(host) = &self.host else { return };
        if self.host_eof || self.to_guest.len() >= TO_GUEST {
            return;
        }
        let stream = host.stream.clone();
        let got = self.to_guest.fill(TO_GUEST, |slices| (&*stream).read_vectored(slices));
        match got {
            Ok(0) => self.host_eof = true,
            Ok(n) => self.pulled += n as u64,
            Err(e) => match e.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => {}
                _ => self.reset(out),
            },
        }
    }

    /// Sends what the guest's window allows.
    pub(crate) fn output(&mut self, out: &mut Out, now: u64) {
        if self.phase != Phase::Open {
            return;
        }
        let takes = out.takes;
        let long = if self.pair.guest.is_ipv4() { takes.tso4 } else { takes.tso6 };
        let most = if long && takes.csum { LONG / self.mss * self.mss } else { self.mss };
        loop {
            let flight = as_len(self.snd_next.wrapping_sub(self.snd_una));
            if self.fin_sent {
                return;
            }
            let unsent = self.to_guest.len().saturating_sub(flight);
            let room = self.snd_window.saturating_sub(flight);
            let n = unsent.min(room).min(most);
            if n == 0 || (n < self.mss && n < unsent && flight > 0) {
                break;
            }
            if !self.send_data(out, flight, n, n == unsent) {
                return;
            }
            self.snd_next = self.snd_next.wrapping_add(as_seq(n));
            self.note_sent();
            if self.deadline.is_none() {
                self.arm(now);
            }
        }
        let sent = as_len(self.snd_next.wrapping_sub(self.snd_una));
        if self.host_eof && sent == self.to_guest.len() {
            let window = self.tell_window();
            self.finish(out, &mut [0; 20], self.snd_next, FIN | ACK, window);
            self.snd_next = self.snd_next.wrapping_add(1);
            self.fin_sent = true;
            self.fin_end = Some(self.snd_next);
            self.note_sent();
            self.arm(now);
        } else if self.snd_next == self.snd_una
            && !self.to_guest.is_empty()
            && self.deadline.is_none()
        {
            // 9293, 3.8.6.1: a window of zero is asked about.
            self.arm(now);
        }
    }

    fn note_sent(&mut self) {
        if after(self.snd_next, self.snd_max) {
            self.snd_max = self.snd_next;
        }
    }

    fn send_data(&mut self, out: &mut Out, skip: usize, n: usize, last: bool) -> bool {
        let due = self.ack_due;
        let window = self.tell_window();
        let flags = if last { PSH | ACK } else { ACK };
        let mut header = [0; 20];
        let seq = self.snd_una.wrapping_add(as_seq(skip));
        fill(&mut header, self.pair, (seq, self.rcv_next), flags, window);
        let wish = Wish {
            checksum: Some(16),
            segment: (n > self.mss).then_some(self.mss),
            refusable: true,
        };
        let Pair { guest, remote } = self.pair;
        let data = self.to_guest.parts(skip, n);
        let taken = out.packet((remote.ip(), guest.ip()), wire::TCP, &mut header, data, wish);
        self.ack_due = due && !taken;
        taken
    }

    /// The end of a batch: what is to be acknowledged is.
    pub(crate) fn finish_batch(&mut self, out: &mut Out) {
        if self.ack_due && self.phase == Phase::Open {
            self.send_ack(out);
        }
        if self.is_finished() {
            self.phase = Phase::Closed;
        }
    }

    /// The guest was found: a SYN that had nowhere to go is sent again.
    pub(crate) fn retry_syn(&mut self, out: &mut Out) {
        if self.phase == Phase::SynSent {
            self.send_syn(out);
        }
    }

    /// When it wants [`Conn::expired`] to be called.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Lets memory go that was not used for a while.
    pub(crate) fn rest(&mut self, now: u64) {
        if now.saturating_sub(self.used) > RTO {
            self.to_guest.shrink();
            self.to_host.shrink();
        }
    }

    /// Memory of its buffers.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.to_guest.capacity() + self.to_host.capacity()
    }

    /// Time is up: sends again what was not acknowledged.
    pub(crate) fn expired(&mut self, out: &mut Out, now: u64) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.tries += 1;
        // A window of zero may last.
        let closed = self.phase == Phase::Open && self.snd_window == 0;
        if self.tries > TRIES && !closed {
            return self.reset(out);
        }
        self.deadline = None;
        match self.phase {
            Phase::SynReceived | Phase::SynSent => self.send_syn(out),
            Phase::Open => {
                self.go_back();
                if self.snd_window == 0 && !self.to_guest.is_empty() {
                    if self.send_data(out, 0, 1, false) {
                        self.snd_next = self.snd_una.wrapping_add(1);
                        self.note_sent();
                    }
                } else {
                    self.output(out, now);
                }
            }
            Phase::Connecting | Phase::Closed => return,
        }
        self.arm(now);
    }
}

fn ram_pieces(
    parts: &[memory::RamSlice],
    mut skip: usize,
    mut len: usize,
) -> Vec<memory::RamSlice> {
    let mut out = Vec::with_capacity(parts.len());
    for part in parts {
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        let piece = part.part(skip, len);
        skip = 0;
        len -= piece.len();
        out.push(piece);
        if len == 0 {
            break;
        }
    }
    out
}

/// Writes the fields of a header; its length is that of the slice.
fn fill(header: &mut [u8], pair: Pair, (seq, ack): (u32, u32), flags: u8, window: u16) {
    let words = u8::try_from(header.len() / 4).unwrap_or(5);
    put(header, 0, &pair.remote.port().to_be_bytes());
    put(header, 2, &pair.guest.port().to_be_bytes());
    put(header, 4, &seq.to_be_bytes());
    if flags & ACK != 0 {
        put(header, 8, &ack.to_be_bytes());
    }
    put(header, 12, &[words << 4, flags]);
    put(header, 14, &window.to_be_bytes());
}

/// Answers a segment that belongs to no connection (9293, 3.5.2).
pub(crate) fn refuse(out: &mut Out, segment: &Segment) {
    if segment.flags & RST != 0 {
        return;
    }
    let pair = Pair { guest: segment.from, remote: segment.to };
    let mut header = [0; 20];
    if segment.flags & ACK != 0 {
        fill(&mut header, pair, (segment.ack, 0), RST, 0);
    } else {
        let mut next = segment.seq.wrapping_add(as_seq(segment.len));
        next = next.wrapping_add(u32::from(segment.flags & SYN != 0));
        next = next.wrapping_add(u32::from(segment.flags & FIN != 0));
        fill(&mut header, pair, (0, next), RST | ACK, 0);
    }
    let wish = Wish { checksum: Some(16), ..Wish::default() };
    out.packet((pair.remote.ip(), pair.guest.ip()), wire::TCP, &mut header, [&[], &[]], wish);
}
