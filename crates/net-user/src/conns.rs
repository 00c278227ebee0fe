//! All TCP connections, and the rules that make some of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use evloop::{Readiness, Watch};
use host::socket::Stream;
use net::{Context, Frame};
use qapi::{Error, Result};
use rustc_hash::FxHashMap;

use crate::char_bridge::CharBridge;
use crate::forward::{HostSide, Rule};
use crate::out::Out;
use crate::resolver::Resolver;
use crate::tcp::{self, Conn, ConnState, Host, Pair};
use crate::user::Reach;
use crate::wire::{ACK, RST, SYN, Segment};

/// Most connections.
pub(crate) const MAX_CONNS: usize = 60_000;
/// Most connections accepted at once.
const BATCH: usize = 64;

struct Forward {
    rule: Rule,
    guest: SocketAddr,
    listener: Option<(Arc<TcpListener>, Watch)>,
}

/// What answers at an address of the guest's network.
struct GuestForward {
    at: SocketAddr,
    target: Target,
}

enum Target {
    /// A command of the shell, started for each connection.
    Command(String),
    /// A character back end.
    Char(Arc<CharBridge>),
    /// Another server, connected for each connection.
    Tcp(SocketAddr),
    /// The same in the file system.
    Unix(PathBuf),
}

impl Target {
    fn parse(text: &str, context: &Context) -> Result<Target> {
        let bad = || {
            let kinds = "'cmd:', 'chardev:', 'tcp:HOST:PORT' and 'unix:PATH'";
            Error::generic(format!("cannot forward the guest to '{text}'; there are {kinds}"))
        };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        Ok(match kind {
            "cmd" => Target::Command(rest.to_owned()),
            "chardev" => Target::Char(CharBridge::new(context.chardevs.port(rest)?)),
            "tcp" => {
                let address = rest.split(',').next().unwrap_or_default();
                let found = address.to_socket_addrs().ok().and_then(|mut all| all.next());
                Target::Tcp(found.ok_or_else(bad)?)
            }
            "unix" => Target::Unix(rest.split(',').next().unwrap_or_default().into()),
            _ => return Err(bad()),
        })
    }

    /// The stream of a new connection, and whether it is connected.
    fn connect(&self, reach: &Reach) -> io::Result<(Stream, bool)> {
        Ok(match self {
            Target::Command(command) => (crate::command::start(command)?, true),
            Target::Char(bridge) => (bridge.connect(&reach.handle)?, true),
            Target::Tcp(address) => {
                let (stream, ready) = host::socket::connect_start(*address)?;
                (Stream::Tcp(stream), ready)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                (Stream::Unix(stream), true)
            }
        })
    }
}

/// All connections by number, and the numbers by addresses.
#[derive(Default)]
pub(crate) struct Conns {
    conns: FxHashMap<u64, Conn>,
    numbers: FxHashMap<Pair, u64>,
    next: u64,
    /// Connections that did something in this batch.
    touched: Vec<u64>,
    /// Connections that found no room at the card.
    stalled: Vec<u64>,
    /// Connections of a loaded state that are not there any more.
    broken: Vec<ConnState>,
    forwards: Vec<Forward>,
    guest_forwards: Vec<GuestForward>,
    /// First sequence numbers of connections to come (RFC 9293, 3.4.1), which nobody can guess.
    initials: Vec<u32>,
}

impl Conns {
    pub(crate) fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    fn initial(&mut self) -> u32 {
        if self.initials.is_empty() {
            let mut bytes = [[0; 4]; 64];
            _ = host::fill_random(bytes.as_flattened_mut());
            self.initials.extend(bytes.map(u32::from_be_bytes));
        }
        self.initials.pop().unwrap_or(0)
    }

    fn insert(&mut self, conn: Conn) -> u64 {
        self.next += 1;
        self.numbers.insert(conn.pair, self.next);
        self.conns.insert(self.next, conn);
        self.touched.push(self.next);
        self.next
    }

    fn remove(&mut self, number: u64) {
        if let Some(conn) = self.conns.remove(&number)
            && self.numbers.get(&conn.pair) == Some(&number)
        {
            self.numbers.remove(&conn.pair);
        }
    }

    /// Whether a rule of `guestfwd` made an address up.
    pub(crate) fn answers_for(&self, ip: IpAddr) -> bool {
        self.guest_forwards.iter().any(|forward| forward.at.ip() == ip)
    }

    /// A segment of the guest.
    pub(crate) fn segment(
        &mut self,
        out: &mut Out,
        (reach, resolver): (&Reach, &mut Resolver),
        segment: &Segment,
        frame: &Frame<'_>,
        now: u64,
    ) {
        let pair = Pair { guest: segment.from, remote: segment.to };
        if let Some(number) = self.numbers.get(&pair).copied()
            && let Some(conn) = self.conns.get_mut(&number)
        {
            conn.input(out, segment, frame, now);
            self.touch(out, number);
            return;
        }
        if segment.flags & (SYN | ACK | RST) != SYN {
            tcp::refuse(out, segment);
            return;
        }
        if self.conns.len() >= MAX_CONNS || self.open(out, reach, resolver, segment, now).is_err() {
            tcp::refuse(out, segment);
        }
    }

    fn touch(&mut self, out: &mut Out, number: u64) {
        if self.touched.last() != Some(&number) {
            self.touched.push(number);
        }
        if std::mem::take(&mut out.stalled) && self.stalled.last() != Some(&number) {
            self.stalled.push(number);
        }
    }

    /// The guest opens a connection.
    fn open(
        &mut self,
        out: &mut Out,
        reach: &Reach,
        resolver: &mut Resolver,
        segment: &Segment,
        now: u64,
    ) -> io::Result<()> {
        let (stream, ready) =
            match self.guest_forwards.iter().find(|forward| forward.at == segment.to) {
                Some(forward) => forward.target.connect(reach)?,
                None => {
                    let target = reach.config.outward(segment.to, resolver, now);
                    let target = target.ok_or(io::ErrorKind::NetworkUnreachable)?;
                    let (stream, ready) = host::socket::connect_start(target.to)?;
                    (Stream::Tcp(stream), ready)
                }
            };
        _ = stream.set_nodelay(true);
        let initial = self.initial();
        let number = self.insert(Conn::by_guest(segment, initial, now));
        let interest = if ready { Readiness::READ } else { Readiness::WRITE };
        self.watch(reach, number, stream, interest)?;
        if let (true, Some(conn)) = (ready, self.conns.get_mut(&number)) {
            conn.connected(out, now);
        }
        Ok(())
    }

    fn watch(
        &mut self,
        reach: &Reach,
        number: u64,
        stream: Stream,
        interest: Readiness,
    ) -> io::Result<()> {
        let stream = Arc::new(stream);
        let user = reach.user.clone();
        let watch = reach.handle.watch(stream.clone(), interest, move |ready| {
            if let Some(user) = user.upgrade() {
                user.stream_ready(number, ready);
            }
        });
        match (watch, self.conns.get_mut(&number)) {
            (Ok(watch), Some(conn)) => {
                conn.host = Some(Host::new(stream, Some(watch), interest));
                Ok(())
            }
            (Err(error), _) => {
                self.remove(number);
                Err(error)
            }
            (Ok(_), None) => Ok(()),
        }
    }

    /// A socket is ready.
    pub(crate) fn ready(
        &mut self,
        out: &mut Out,
        reach: &Reach,
        number: u64,
        ready: Readiness,
        now: u64,
    ) {
        _ = reach;
        let Some(conn) = self.conns.get_mut(&number) else { return };
        if conn.is_connecting() {
            match conn.host.as_ref().map(Host::connect_result) {
                Some(Ok(())) => conn.connected(out, now),
                _ => conn.reset(out),
            }
        } else {
            conn.ready(out, ready, now);
        }
        self.touch(out, number);
    }

    /// Somebody connected to a port of a rule.
    pub(crate) fn accept(&mut self, out: &mut Out, reach: &Reach, host: SocketAddr, now: u64) {
        let forward = self.forwards.iter().find(|f| !f.rule.udp && f.rule.host == host);
        let Some((listener, guest)) =
            forward.and_then(|f| Some((f.listener.as_ref()?.0.clone(), f.guest)))
        else {
            return;
        };
        for _ in 0..BATCH {
            let Ok((stream, from)) = listener.accept() else { return };
            if self.conns.len() >= MAX_CONNS {
                continue;
            }
            _ = stream.set_nonblocking(true);
            _ = stream.set_nodelay(true);
            let Some(mut remote) = reach.config.inward(from, false, guest.is_ipv4()) else {
                continue;
            };
            // Two clients may look like one.
            let taken = |port| {
                self.numbers
                    .contains_key(&Pair { guest, remote: SocketAddr::new(remote.ip(), port) })
            };
            if taken(remote.port()) {
                let free = (49152..=65535).find(|port| !taken(*port));
                let Some(free) = free else { continue };
                remote.set_port(free);
            }
            let initial = self.initial();
            let conn = Conn::by_host(Pair { guest, remote }, initial, now);
            let number = self.insert(conn);
            if self.watch(reach, number, Stream::Tcp(stream), Readiness::NONE).is_ok()
                && let Some(conn) = self.conns.get_mut(&number)
            {
                conn.begin(out, now);
            }
        }
    }

    /// The guest was found at an address.
    pub(crate) fn found(&mut self, out: &mut Out, ip: IpAddr) {
        for conn in self.conns.values_mut() {
            if conn.pair.guest.ip() == ip && conn.waits_for_guest() {
                conn.retry_syn(out);
            }
        }
    }

    /// Goes on with connections that found no room.
    pub(crate) fn resume(&mut self, out: &mut Out, now: u64) {
        for number in std::mem::take(&mut self.stalled) {
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.output(out, now);
                conn.finish_batch(out);
            }
            if std::mem::take(&mut out.stalled) {
                self.stalled.push(number);
            }
        }
    }

    /// The end of a batch.
    pub(crate) fn end(&mut self, out: &mut Out, now: u64) {
        _ = now;
        for number in std::mem::take(&mut self.touched) {
            let Some(conn) = self.conns.get_mut(&number) else { continue };
            conn.finish_batch(out);
            if conn.is_over() {
                self.remove(number);
            }
        }
    }

    /// Looks at the time.
    pub(crate) fn tick(&mut self, out: &mut Out, now: u64) {
        let due = |(number, conn): (&u64, &mut Conn)| {
            conn.rest(now);
            conn.deadline().is_some_and(|at| at <= now).then_some(*number)
        };
        let due: Vec<u64> = self.conns.iter_mut().filter_map(due).collect();
        for number in due {
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.expired(out, now);
                self.touch(out, number);
            }
        }
    }

    /// Adds a rule of `hostfwd`; the socket of a UDP rule is elsewhere.
    pub(crate) fn add_rule(
        &mut self,
        reach: &Reach,
        rule: Rule,
        guest: SocketAddr,
    ) -> io::Result<()> {
        let listener = if rule.udp {
            None
        } else {
            let listener = Arc::new(TcpListener::bind(rule.host)?);
            listener.set_nonblocking(true)?;
            let (user, host) = (reach.user.clone(), rule.host);
            let watch = reach.handle.watch(listener.clone(), Readiness::READ, move |_| {
                if let Some(user) = user.upgrade() {
                    user.accept(host);
                }
            })?;
            Some((listener, watch))
        };
        self.forwards.push(Forward { rule, guest, listener });
        Ok(())
    }

    /// Removes a rule; gives its guest's side.
    pub(crate) fn remove_rule(&mut self, side: HostSide) -> Option<SocketAddr> {
        let own = |f: &Forward| f.rule.udp == side.udp && f.rule.host == side.host;
        let at = self.forwards.iter().position(own)?;
        Some(self.forwards.remove(at).guest)
    }

    /// Adds a rule of `guestfwd`: `tcp:server:port-cmd:command`.
    pub(crate) fn add_guest_forward(
        &mut self,
        reach: &Reach,
        text: &str,
        context: &Context,
    ) -> Result<()> {
        let bad = || Error::generic(format!("Invalid guest forwarding rule '{text}'"));
        let rest = text.strip_prefix("tcp:").or_else(|| text.strip_prefix(':')).ok_or_else(bad)?;
        let (server, rest) = rest.split_once(':').ok_or_else(bad)?;
        let (port, target) = rest.split_once('-').ok_or_else(bad)?;
        let server: Ipv4Addr = server.parse().map_err(|_| bad())?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let at = SocketAddr::new(server.into(), port);
        let v4 = reach.config.v4;
        let usable = v4.is_some_and(|v4| {
            v4.contains(server) && server != v4.host && server != v4.dns && server != v4.net
        });
        if !usable || self.guest_forwards.iter().any(|forward| forward.at == at) {
            let why = "conflicting/invalid host:port in guest forwarding rule";
            return Err(Error::generic(format!("{why} '{text}'")));
        }
        let target = Target::parse(target, context)?;
        self.guest_forwards.push(GuestForward { at, target });
        Ok(())
    }

    /// All rules: the rule, the guest's side, the descriptor.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&Rule, SocketAddr, Option<i32>)> {
        self.forwards.iter().map(|f| {
            (&f.rule, f.guest, f.listener.as_ref().map(|(listener, _)| listener.as_raw_fd()))
        })
    }

    /// All connections with their descriptors, in order of creation.
    pub(crate) fn all(&self) -> Vec<(&Conn, i32)> {
        let mut all: Vec<_> = self.conns.iter().collect();
        all.sort_by_key(|(number, _)| **number);
        all.into_iter().map(|(_, conn)| (conn, conn.host.as_ref().map_or(-1, Host::fd))).collect()
    }

    /// What is saved, in order of creation.
    pub(crate) fn state(&self) -> Vec<ConnState> {
        let mut all: Vec<_> = self.conns.iter().map(|(number, conn)| conn.state(*number)).collect();
        all.sort_by_key(|state| state.number);
        all
    }

    /// Goes back to a state, of this network (`own`) or of another one. What the guest is to be
    /// told stays for [`Conns::settle`].
    pub(crate) fn restore(&mut self, states: Vec<ConnState>, own: bool, now: u64) {
        let mut states: FxHashMap<u64, ConnState> =
            states.into_iter().map(|state| (state.number, state)).collect();
        let numbers: Vec<u64> = self.conns.keys().copied().collect();
        for number in numbers {
            let state = states.get(&number).filter(|_| own);
            let Some(conn) = self.conns.get_mut(&number) else { continue };
            if state.is_some_and(|state| conn.restore(state, now)) {
                states.remove(&number);
                self.touched.push(number);
            } else {
                conn.abort();
                self.remove(number);
            }
        }
        self.broken = states.into_values().collect();
        self.stalled.clear();
    }

    /// Tells the guest which of its connections are broken.
    pub(crate) fn settle(&mut self, out: &mut Out) {
        for state in std::mem::take(&mut self.broken) {
            if !self.numbers.contains_key(&state.pair()) {
                state.refuse(out);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.conns.values().map(Conn::memory).sum(), self.conns.len())
    }
}
