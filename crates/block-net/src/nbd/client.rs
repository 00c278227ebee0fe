//! A connection and the requests under way on it.
//!
//! Requests of several threads are on the wire at once: each is written under a lock and then waits
//! for its own reply, which the connection's reader thread hands out by handle. When the connection
//! breaks all of them fail; the driver above may connect anew and send them again.
//! Not here: the protocol's messages (`wire.rs`).

#![expect(clippy::disallowed_methods, reason = "a connection has a thread that reads replies")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::wire::{self, Export, Part};

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(String),
    Inet(String, u16),
}

/// A socket of either kind.
pub(super) enum Socket {
    Unix(UnixStream),
    Inet(TcpStream),
}

impl Socket {
    pub(super) fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Address::Inet(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                Ok(Socket::Inet(stream))
            }
        }
    }
    fn try_clone(&self) -> io::Result<Socket> {
        match self {
            Socket::Unix(s) => s.try_clone().map(Socket::Unix),
            Socket::Inet(s) => s.try_clone().map(Socket::Inet),
        }
    }
    fn shutdown(&self) {
        _ = match self {
            Socket::Unix(s) => s.shutdown(Shutdown::Both),
            Socket::Inet(s) => s.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(s) => s.read(into),
            Socket::Inet(s) => s.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(s) => s.write(data),
            Socket::Inet(s) => s.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request under way.
#[derive(Default)]
struct Slot {
    /// Place and length of a read.
    read: Option<(u64, u32)>,
    data: Vec<u8>,
    /// Bytes of a read that came.
    filled: u64,
    status: Vec<(u32, u32)>,
    error: Option<u32>,
    done: bool,
}

#[derive(Default)]
struct State {
    slots: HashMap<u64, Slot>,
    next: u64,
    broken: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    came: Condvar,
}

/// What a request gave.
pub(super) struct Answer {
    pub(super) data: Vec<u8>,
    pub(super) status: Vec<(u32, u32)>,
}

/// A connection.
pub(super) struct Client {
    pub(super) export: Export,
    out: Mutex<Socket>,
    shared: Arc<Shared>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

/// A request as it is sent.
pub(super) struct Request<'a> {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) data: &'a [u8],
}

/// Puts a part of a reply where it belongs; `false`: it makes no sense.
fn place(slot: &mut Slot, part: Part, context: Option<u32>) -> bool {
    let range = |slot: &Slot, at: u64, len: u64| {
        let (start, size) = slot.read?;
        let from = at.checked_sub(start)?;
        (from.checked_add(len)? <= u64::from(size)).then_some(())?;
        Some(usize::try_from(from).ok()?..usize::try_from(from + len).ok()?)
    };
    match part {
        Part::None => {}
        Part::Error(number) => slot.error = Some(number),
        Part::Data(at, data) => {
            let Some(range) = range(slot, at, data.len() as u64) else { return false };
            slot.filled = slot.filled.saturating_add(data.len() as u64);
            if let Some(into) = slot.data.get_mut(range) {
                into.copy_from_slice(&data);
            }
        }
        Part::Hole(at, len) => {
            let Some(range) = range(slot, at, len.into()) else { return false };
            slot.filled = slot.filled.saturating_add(len.into());
            slot.data.get_mut(range).unwrap_or_default().fill(0);
        }
        Part::Status(id, all) if Some(id) == context => slot.status = all,
        Part::Status(..) => return false,
    }
    true
}

fn read_replies(mut from: Socket, shared: &Shared, context: Option<u32>) {
    loop {
        let reads = |handle: u64| shared.state.lock().slots.get(&handle).and_then(|s| s.read);
        let found = wire::reply(&mut from, &reads);
        let mut state = shared.state.lock();
        let fine = found.is_ok_and(|reply| {
            let Some(slot) = state.slots.get_mut(&reply.handle) else { return false };
            if slot.done || !place(slot, reply.part, context) {
                return false;
            }
            slot.done = reply.last;
            true
        });
        state.broken |= !fine;
        drop(state);
        shared.came.notify_all();
        if !fine {
            from.shutdown();
            return;
        }
    }
}

impl Client {
    /// Connects and negotiates.
    pub(super) fn connect(address: &Address, name: &str, query: &str) -> io::Result<Client> {
        let mut socket = Socket::connect(address)?;
        let export = wire::handshake(&mut socket, name, query)?;
        let shared = Arc::new(Shared::default());
        let from = socket.try_clone()?;
        let (theirs, context) = (shared.clone(), export.context);
        let reader = std::thread::Builder::new()
            .name("nbd-reader".into())
            .spawn(move || read_replies(from, &theirs, context))?;
        Ok(Client { export, out: Mutex::new(socket), shared, reader: Mutex::new(Some(reader)) })
    }

    /// Whether it can be used no more.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.state.lock().broken
    }

    /// Sends a request and waits for what comes of it. The outer error says that the connection
    /// broke, the inner one is the server's.
    pub(super) fn ask(&self, request: &Request<'_>) -> io::Result<io::Result<Answer>> {
        let is_read = request.command == wire::command::READ;
        let size = if is_read { usize::try_from(request.len).unwrap_or(0) } else { 0 };
        let handle = {
            let mut state = self.shared.state.lock();
            if state.broken {
                return Err(io::ErrorKind::NotConnected.into());
            }
            state.next += 1;
            let handle = state.next;
            let read = is_read.then_some((request.at, request.len));
            let slot = Slot { read, data: vec![0; size], ..Slot::default() };
            state.slots.insert(handle, slot);
            handle
        };
        let Request { command, flags, at, len, data } = *request;
        let head = wire::request(command, flags, handle, at, len);
        let sent = {
            let mut out = self.out.lock();
            out.write_all(&head).and_then(|()| out.write_all(data))
        };
        let mut state = self.shared.state.lock();
        if sent.is_err() {
            state.broken = true;
            self.shared.came.notify_all();
        }
        loop {
            let done = state.slots.get(&handle).is_none_or(|slot| slot.done);
            if done || state.broken {
                let slot = state.slots.remove(&handle).unwrap_or_default();
                drop(state);
                return finish(slot);
            }
            self.shared.came.wait(&mut state);
        }
    }
}

fn finish(slot: Slot) -> io::Result<io::Result<Answer>> {
    if !slot.done {
        return Err(io::ErrorKind::NotConnected.into());
    }
    if let Some(number) = slot.error {
        return Ok(Err(wire::error(number)));
    }
    if slot.filled != slot.data.len() as u64 {
        return Ok(Err(io::Error::from_raw_os_error(5)));
    }
    Ok(Ok(Answer { data: slot.data, status: slot.status }))
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut out = self.out.lock();
        let bye = wire::request(wire::command::DISCONNECT, 0, 0, 0, 0);
        _ = out.write_all(&bye);
        out.shutdown();
        drop(out);
        if let Some(reader) = self.reader.lock().take() {
            _ = reader.join();
        }
    }
}
