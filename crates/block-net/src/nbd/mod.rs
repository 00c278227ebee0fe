//! `nbd`: a disk that a server of the network block device protocol exports.
//!
//! `x-dirty-bitmap` names another metadata context than `base:allocation` for extents.
//! Options: `server` (`type`: `unix` with `path`, `inet` with `host` and `port`), `export`,
//! `reconnect-delay` (seconds in which requests wait for a new connection when the old one broke;
//! 0: they fail), `open-timeout` (seconds in which the first connection is tried again).
//! Not here: TLS, sockets passed by descriptor, extended headers.
//! Source: QEMU's manual, `nbd`; the NBD protocol description.

#![expect(clippy::disallowed_methods, reason = "delays of connections are the host's time")]

mod client;
pub mod wire;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{BlockClass, BlockDriver, Extent, Opening};
use parking_lot::Mutex;
use qapi::{Error, Result, Value};

use client::{Address, Answer, Client, Request};
use wire::{Export, command, flag};

/// The class for the catalog.
pub static CLASS: BlockClass = BlockClass {
    name: "nbd",
    protocol: true,
    probe: |_| 0,
    open,
    create: None,
    create_options: &[],
    describe: |new| format!(" size={}", new.size),
    has_backing: false,
};

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(50);

struct Nbd {
    address: Address,
    name: String,
    /// The metadata context that extents come from.
    query: String,
    delay: Duration,
    export: Export,
    client: Mutex<Arc<Client>>,
}

/// Tries to connect until the time is over.
fn connect(address: &Address, (name, query): (&str, &str), time: Duration) -> io::Result<Client> {
    let end = Instant::now() + time;
    loop {
        match Client::connect(address, name, query) {
            Err(_) if Instant::now() < end => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

impl Nbd {
    /// The connection; a broken one is replaced while the delay lasts.
    fn client(&self) -> io::Result<Arc<Client>> {
        let mut client = self.client.lock();
        if client.is_broken() {
            if self.delay.is_zero() {
                return Err(io::Error::from_raw_os_error(5));
            }
            let new = connect(&self.address, (&self.name, &self.query), self.delay)
                .map_err(|_| io::Error::from_raw_os_error(5))?;
            if new.export != self.export {
                return Err(io::Error::from_raw_os_error(5));
            }
            *client = Arc::new(new);
        }
        Ok(client.clone())
    }

    fn ask(&self, request: &Request<'_>) -> io::Result<Answer> {
        loop {
            match self.client()?.ask(request) {
                Ok(done) => return done,
                // The connection broke: without a delay the next look at it is an error.
                Err(_) => continue,
            }
        }
    }

    fn most(&self) -> u64 {
        let (min, max) = self.export.block;
        u64::from(max.max(min) / min.max(1) * min.max(1))
    }

    /// Calls `one` for pieces of a range that a request may have.
    fn pieces(
        &self,
        at: u64,
        len: u64,
        mut one: impl FnMut(u64, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(self.most());
            one(at + done, u32::try_from(n).unwrap_or(0))?;
            done += n;
        }
        Ok(())
    }

    fn plain(&self, command: u16, flags: u16, at: u64, len: u32) -> io::Result<()> {
        self.ask(&Request { command, flags, at, len, data: &[] }).map(|_| ())
    }

    /// Whether a range is made of whole blocks of the server.
    fn is_whole(&self, at: u64, len: usize) -> bool {
        let min = u64::from(self.export.block.0.max(1));
        at.is_multiple_of(min) && (len as u64).is_multiple_of(min)
    }

    /// The whole blocks around a range.
    fn around(&self, at: u64, len: usize) -> (u64, usize) {
        let min = u64::from(self.export.block.0.max(1));
        let start = at / min * min;
        let end = (at + len as u64).next_multiple_of(min).min(self.export.len.max(at + len as u64));
        (start, usize::try_from(end - start).unwrap_or(len))
    }
}

impl BlockDriver for Nbd {
    fn len(&self) -> u64 {
        self.export.len
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.is_whole(at, into.len()) {
            let (start, len) = self.around(at, into.len());
            if (start, len) != (at, into.len()) {
                let mut whole = vec![0; len];
                self.read(start, &mut whole)?;
                let from = usize::try_from(at - start).unwrap_or(0);
                let part = whole.get(from..from + into.len()).unwrap_or_default();
                into.copy_from_slice(part);
                return Ok(());
            }
        }
        let mut done = 0usize;
        self.pieces(at, into.len() as u64, |at, len| {
            let (command, flags) = (command::READ, 0);
            let answer = self.ask(&Request { command, flags, at, len, data: &[] })?;
            let end = done + answer.data.len();
            if let Some(part) = into.get_mut(done..end) {
                part.copy_from_slice(&answer.data);
            }
            done = end;
            Ok(())
        })
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        if !self.is_whole(at, data.len()) {
            let (start, len) = self.around(at, data.len());
            if (start, len) != (at, data.len()) {
                let mut whole = vec![0; len];
                self.read(start, &mut whole)?;
                let from = usize::try_from(at - start).unwrap_or(0);
                if let Some(part) = whole.get_mut(from..from + data.len()) {
                    part.copy_from_slice(data);
                }
                return self.write(start, &whole);
            }
        }
        let mut rest = data;
        self.pieces(at, data.len() as u64, |at, len| {
            let (now, later) = rest.split_at(usize::try_from(len).unwrap_or(0).min(rest.len()));
            rest = later;
            let (command, flags) = (command::WRITE, 0);
            self.ask(&Request { command, flags, at, len, data: now }).map(|_| ())
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let whole = self.is_whole(at, usize::try_from(len).unwrap_or(usize::MAX));
        if self.export.flags & flag::WRITE_ZEROES == 0 || !whole {
            let zeroes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(0)];
            let mut done = 0;
            while done < len {
                let n = usize::try_from(len - done).unwrap_or(usize::MAX).min(zeroes.len());
                self.write(at + done, zeroes.get(..n).unwrap_or_default())?;
                done += n as u64;
            }
            return Ok(());
        }
        let flags = if unmap { 0 } else { command::NO_HOLE };
        self.pieces(at, len, |at, len| self.plain(command::WRITE_ZEROES, flags, at, len))
    }

    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let whole = self.is_whole(at, usize::try_from(len).unwrap_or(usize::MAX));
        if self.export.flags & flag::TRIM == 0 || !whole {
            return Ok(());
        }
        self.pieces(at, len, |at, len| self.plain(command::TRIM, 0, at, len))
    }

    fn flush(&self) -> io::Result<()> {
        if self.export.flags & flag::FLUSH == 0 {
            return Ok(());
        }
        self.plain(command::FLUSH, 0, 0, 0)
    }

    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let whole =
            Extent { len, data: true, allocated: true, offset: Some(at), ..Extent::default() };
        if self.export.context.is_none() || !self.is_whole(at, 0) {
            return Ok(whole);
        }
        let min = u64::from(self.export.block.0.max(1));
        let asked = len
            .next_multiple_of(min)
            .min(self.export.len - at)
            .min(u64::from(u32::MAX / 2) / min * min);
        let (command, flags) = (command::BLOCK_STATUS, command::ONE);
        let asked = u32::try_from(asked).unwrap_or(0);
        let answer = self.ask(&Request { command, flags, at, len: asked, data: &[] })?;
        let Some((found, flags)) = answer.status.first().copied().filter(|(len, _)| *len > 0)
        else {
            return Err(io::Error::from_raw_os_error(5));
        };
        let (hole, zero) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Extent { len: len.min(found.into()), data: !hole, zero, ..whole })
    }
}

fn word(server: &mut Value, name: &str) -> Result<Option<String>> {
    match server.take(name) {
        None => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(_) => Err(Error::wrong_type(&format!("server.{name}"), "string")),
    }
}

fn address(options: &mut Value) -> Result<Address> {
    let Some(mut server) = options.take("server") else {
        // The forms of old: path, or host and port.
        let (path, host) = (word(options, "path")?, word(options, "host")?);
        let port = word(options, "port")?.unwrap_or_else(|| "10809".into());
        return match (path, host) {
            (Some(path), None) => Ok(Address::Unix(path)),
            (None, Some(host)) => Ok(Address::Inet(host, number(&port)?)),
            (Some(_), Some(_)) => {
                Err(Error::generic("path and host may not be used at the same time"))
            }
            (None, None) => Err(Error::generic("NBD server address missing")),
        };
    };
    let kind = word(&mut server, "type")?.ok_or_else(|| Error::missing("server.type"))?;
    let need = |server: &mut Value, name: &str| {
        word(server, name)?.ok_or_else(|| Error::missing(&format!("server.{name}")))
    };
    let found = match kind.as_str() {
        "unix" => Address::Unix(need(&mut server, "path")?),
        "inet" => Address::Inet(need(&mut server, "host")?, number(&need(&mut server, "port")?)?),
        other => return Err(Error::not_accepted("server.type", other, ["inet", "unix"])),
    };
    match server.as_map().and_then(|members| members.first()) {
        Some((key, _)) => Err(Error::unexpected(&format!("server.{key}"))),
        None => Ok(found),
    }
}

fn number(port: &str) -> Result<u16> {
    port.parse().map_err(|_| Error::generic(format!("Invalid port '{port}'")))
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let seconds = |at: &mut Opening<'_>, name: &str| -> Result<Duration> {
        let found = block::take::<u32>(&mut at.options, name, source)?;
        Ok(Duration::from_secs(found.unwrap_or(0).into()))
    };
    let delay = seconds(at, "reconnect-delay")?;
    let timeout = seconds(at, "open-timeout")?;
    let export = block::take::<String>(&mut at.options, "export", source)?;
    let is_named = export.is_some();
    let name = export.unwrap_or_default();
    if name.len() > 4096 {
        return Err(Error::generic("export name too long to send to server"));
    }
    let query = block::take::<String>(&mut at.options, "x-dirty-bitmap", source)?;
    if query.as_ref().is_some_and(|query| query.len() > 4096) {
        return Err(Error::generic("x-dirty-bitmap query too long to send to server"));
    }
    let given = query.is_some();
    let query = query.unwrap_or_else(|| wire::ALLOCATION.to_owned());
    if at.options.take("tls-creds").is_some() {
        return Err(Error::generic("nbd with TLS is not built yet in Tinamou"));
    }
    let address = address(&mut at.options)?;
    let client = connect(&address, (&name, &query), timeout).map_err(|error| {
        let place = match &address {
            Address::Unix(path) => format!("Failed to connect to '{path}'"),
            Address::Inet(host, port) => format!("Failed to connect to '{host}:{port}'"),
        };
        let why = host::reason(&error);
        let own = error.raw_os_error().is_none() && error.get_ref().is_some();
        Error::generic(if own { why } else { format!("{place}: {why}") })
    })?;
    let export = client.export.clone();
    if export.flags & flag::READ_ONLY != 0 && !at.read_only {
        if !at.may_be_read_only() {
            return Err(Error::generic("request on denied for read-only export"));
        }
        at.read_only = true;
    }
    if given && export.context.is_none() {
        let text = format!("requested x-dirty-bitmap {query} not found");
        return Err(Error::generic(text));
    }
    if export.len > 1 << 62 {
        return Err(Error::generic("the export is too large"));
    }
    at.filename = match &address {
        Address::Unix(path) if !is_named => format!("nbd+unix://?socket={path}"),
        Address::Unix(path) => format!("nbd+unix:///{name}?socket={path}"),
        Address::Inet(host, port) if !is_named => format!("nbd://{host}:{port}"),
        Address::Inet(host, port) => format!("nbd://{host}:{port}/{name}"),
    };
    Ok(Arc::new(Nbd { address, name, query, delay, export, client: Mutex::new(Arc::new(client)) }))
}
