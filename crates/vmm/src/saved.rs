//! The whole machine as one stream, and back.
//!
//! Order in the stream: the machine, devices in the order of their making, CPUs, RAM. Loading first
//! reads all of it and changes nothing; then devices and CPUs are loaded, and are put back as they
//! were if one refuses; RAM comes last and cannot refuse. The guest does not run meanwhile.
//!
//! Not saved: what hosts hold (character back ends, open files, sockets but those that a network back
//! end keeps), the generator behind RNDR. A machine is loaded by one with the same devices in the
//! same order.

use std::io;
use std::sync::Arc;

use derive::VmState;
use device::{Migration, Record, Reset};
use guest_ram::RamBlock;
use migration::section::{self, Kind, Section};
use migration::{StreamError, ram, seal};
use net::Netdevs;
use qapi::{Error, Result};
use vmstate::{StateReader, StateWriter};

use crate::{Machine, Vm};

/// What must be alike before anything is looked at.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "machine", version = 1)]
struct About {
    /// Class of the machine.
    machine: String,
    /// CPU model.
    cpu: String,
    /// CPUs.
    cpus: u32,
    /// Guest time in nanoseconds.
    clock: u64,
}

/// Most bytes that all devices and CPUs take together.
const MOST_STATE: usize = 256 << 20;

/// The parts of a machine that have state.
struct Parts<'a> {
    vm: &'a Vm,
    machine: &'a Machine,
    devices: Vec<(String, Arc<Record>)>,
    /// Network back ends that keep something.
    links: Vec<String>,
    netdevs: Option<Arc<Netdevs>>,
    blocks: Vec<Arc<RamBlock>>,
    cpus: usize,
}

fn shorten(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn failed(error: &StreamError) -> Error {
    match error {
        StreamError::Io(error) => {
            Error::generic(format!("Could not read the machine's state: {}", host::reason(error)))
        }
        other => Error::generic(other.to_string()),
    }
}

impl<'a> Parts<'a> {
    fn of(vm: &'a Vm) -> Result<Parts<'a>> {
        let machine = vm.machine().ok_or_else(|| Error::generic("there is no machine"))?;
        let named = |(n, record): (usize, Arc<Record>)| {
            let name = format!("{n}/{}/{}", record.class.name, shorten(&record.id, 100));
            (name, record)
        };
        let devices = machine.devices.all().into_iter().enumerate().map(named).collect();
        let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
        for space in &machine.spaces {
            for block in space.root().ram_blocks() {
                if !blocks.iter().any(|known| Arc::ptr_eq(known, &block)) {
                    blocks.push(block);
                }
            }
        }
        let cpus = vm.execution().cpus().len();
        let netdevs = vm.services.find::<Arc<Netdevs>>();
        let mut links = Vec::new();
        if let Some(netdevs) = &netdevs {
            netdevs.each_saved(|id, _| links.push(format!("net/{}", shorten(id, 200))));
        }
        Ok(Parts { vm, machine, devices, links, netdevs, blocks, cpus })
    }

    /// Does something with the state of a network back end.
    fn with_link(&self, name: &str, f: &mut dyn FnMut(&Migration<'_>)) {
        let Some(netdevs) = &self.netdevs else { return };
        netdevs.each_saved(|id, saved| {
            if name == format!("net/{}", shorten(id, 200)) {
                f(&Migration::Saved(saved));
            }
        });
    }

    fn about(&self) -> About {
        About {
            machine: self.machine.name.clone(),
            cpu: self.machine.cpu_model.clone(),
            cpus: u32::try_from(self.cpus).unwrap_or(u32::MAX),
            clock: self.vm.clock.now_ns(),
        }
    }

    /// State of all devices and CPUs.
    fn states(&self) -> Result<Vec<Section>> {
        let mut all = Vec::new();
        for (name, record) in &self.devices {
            let mut w = StateWriter::new();
            record.device.migration().write(&mut w).map_err(|why| {
                let id = &record.id;
                Error::generic(format!("State blocked by non-migratable device '{id}': {why}"))
            })?;
            all.push(Section { kind: Kind::Device, name: name.clone(), body: w.into_bytes() });
        }
        for name in &self.links {
            let mut w = StateWriter::new();
            self.with_link(name, &mut |state| _ = state.write(&mut w));
            all.push(Section { kind: Kind::Link, name: name.clone(), body: w.into_bytes() });
        }
        let accel = self.vm.execution().accel();
        for n in 0..self.cpus {
            let mut w = StateWriter::new();
            let known =
                accel.as_ref().is_some_and(|vm| vm.with_cpu(n, &mut |cpu| cpu.save(&mut w)));
            if !known {
                return Err(Error::generic("State blocked by non-migratable CPUs"));
            }
            all.push(Section { kind: Kind::Cpu, name: n.to_string(), body: w.into_bytes() });
        }
        Ok(all)
    }

    /// Loads one device or CPU.
    fn load(&self, section: &Section) -> Result<()> {
        let mut r = StateReader::new(&section.body);
        let loaded = match section.kind {
            Kind::Cpu => {
                let n = section.name.parse().unwrap_or(usize::MAX);
                let mut loaded = Err(vmstate::LoadError::Invalid("there is no such CPU"));
                if let Some(accel) = self.vm.execution().accel() {
                    accel.with_cpu(n, &mut |cpu| loaded = cpu.load(&mut r));
                }
                loaded
            }
            Kind::Link => {
                let mut loaded = Err(vmstate::LoadError::Invalid("there is no such back end"));
                self.with_link(&section.name, &mut |state| loaded = state.read(&mut r));
                loaded
            }
            _ => match self.devices.iter().find(|(name, _)| *name == section.name) {
                Some((_, record)) => record.device.migration().read(&mut r),
                None => Err(vmstate::LoadError::Invalid("there is no such device")),
            },
        };
        loaded.and_then(|()| r.finish()).map_err(|error| {
            Error::generic(format!("error while loading state of '{}': {error}", section.name))
        })
    }

    /// Puts states into all devices and CPUs, which are reset before.
    fn put(&self, sections: &[Section], clock: u64) -> Result<()> {
        self.machine.reset.reset_only(Reset::Cold);
        // Controllers get levels of the time of saving: what is driven now must reach them.
        for (_, record) in &self.devices {
            record.irq_outs.iter().for_each(|(_, out)| out.forget());
        }
        self.vm.clock.set_ns(clock);
        sections.iter().try_for_each(|section| self.load(section))
    }

    /// Lets devices and back ends derive what follows from their state.
    fn settle(&self) {
        self.machine.reset.settle();
        if let Some(netdevs) = &self.netdevs {
            netdevs.settle();
        }
    }

    /// Puts new states in, or leaves the old ones.
    fn replace(&self, new: &[Section], clock: u64) -> Result<()> {
        let (old, before) = (self.states()?, self.about().clock);
        let done = self.put(new, clock);
        if done.is_err() {
            // What was just saved loads.
            _ = self.put(&old, before);
            self.settle();
        }
        done
    }

    /// Kind and name of the part at an index.
    fn order(&self, at: usize) -> (Kind, String) {
        if let Some((name, _)) = self.devices.get(at) {
            return (Kind::Device, name.clone());
        }
        let at = at - self.devices.len();
        if let Some(name) = self.links.get(at) {
            return (Kind::Link, name.clone());
        }
        let at = at - self.links.len();
        if at < self.cpus {
            return (Kind::Cpu, at.to_string());
        }
        match self.blocks.get(at - self.cpus) {
            Some(block) => (Kind::Ram, block.name().to_owned()),
            None => (Kind::End, String::new()),
        }
    }

    /// What the stream must have next; the error names what is missing or too much.
    fn expect(&self, section: &Section, at: usize) -> Result<()> {
        let wanted = self.order(at);
        if wanted == (section.kind, section.name.clone()) {
            return Ok(());
        }
        let name = if section.kind == Kind::End { &wanted.1 } else { &section.name };
        Err(Error::generic(format!(
            "Unknown savevm section or instance '{name}' 0. Make sure that your current VM setup matches your saved VM setup, including any hotplugged devices"
        )))
    }

    /// Reads a whole stream; with `apply` RAM is put in place. States of devices and CPUs come back.
    fn read(&self, source: Source<'_>, apply: bool) -> Result<(About, Vec<Section>)> {
        let mode = if apply { ram::Mode::Apply } else { ram::Mode::Check };
        let mut r = seal::Reader::new(source.get, source.len).map_err(|error| failed(&error))?;
        let next = |r: &mut seal::Reader<'_>| section::read(r).map_err(|error| failed(&error));
        let about = self.check_about(&next(&mut r)?)?;
        let (mut states, mut size) = (Vec::new(), 0);
        for at in 0.. {
            let section = next(&mut r)?;
            self.expect(&section, at)?;
            match section.kind {
                Kind::End => break,
                Kind::Ram => {
                    let n = at - self.devices.len() - self.links.len() - self.cpus;
                    let Some(block) = self.blocks.get(n) else { break };
                    ram::load(&mut r, block, &section.body, mode)
                        .map_err(|error| failed(&error))?;
                }
                _ => {
                    size += section.body.len();
                    if size > MOST_STATE {
                        return Err(Error::generic("the machine's state is too large"));
                    }
                    states.push(section);
                }
            }
        }
        r.finish().map_err(|error| failed(&error))?;
        Ok((about, states))
    }

    fn check_about(&self, section: &Section) -> Result<About> {
        if section.kind != Kind::Machine {
            return Err(Error::generic("the machine's state does not begin with the machine"));
        }
        let mut r = StateReader::new(&section.body);
        let about: About = r
            .field("about", None)
            .and_then(|about| r.finish().map(|()| about))
            .map_err(|error| Error::generic(format!("the machine's state is damaged: {error}")))?;
        let ours = self.about();
        for (what, found, here) in [
            ("Machine type", &about.machine, &ours.machine),
            ("CPU model", &about.cpu, &ours.cpu),
            ("Number of CPUs", &about.cpus.to_string(), &ours.cpus.to_string()),
        ] {
            if found != here {
                let text = format!("{what} received is '{found}' and local is '{here}'");
                return Err(Error::generic(text));
            }
        }
        Ok(about)
    }
}

/// Where a stream is read from.
pub(crate) struct Source<'a> {
    /// Fills a buffer from an offset.
    pub(crate) get: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    /// Bytes of the stream.
    pub(crate) len: u64,
}

/// Writes the stream of a stopped machine; its length.
pub(crate) fn save(vm: &Vm, put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> Result<u64> {
    let parts = Parts::of(vm)?;
    let states = parts.states()?;
    let mut body = StateWriter::new();
    body.field("about", &parts.about());
    let body = body.into_bytes();
    let mut write = move || -> io::Result<u64> {
        let mut w = seal::Writer::new(put)?;
        section::write(&mut w, Kind::Machine, "machine", &body)?;
        for state in &states {
            section::write(&mut w, state.kind, &state.name, &state.body)?;
        }
        for block in &parts.blocks {
            ram::save(&mut w, block)?;
        }
        section::write(&mut w, Kind::End, "", &[])?;
        w.finish()
    };
    write().map_err(|error| {
        Error::generic(format!("Error while writing VM state: {}", host::reason(&error)))
    })
}

/// A stream that was read through and found whole and of this machine.
pub(crate) struct Checked {
    clock: u64,
    states: Vec<Section>,
}

/// Reads a stream and changes nothing.
pub(crate) fn check(vm: &Vm, source: Source<'_>) -> Result<Checked> {
    let (about, states) = Parts::of(vm)?.read(source, false)?;
    Ok(Checked { clock: about.clock, states })
}

/// Loads devices and CPUs of the stopped machine, or leaves them as they were.
pub(crate) fn load_states(vm: &Vm, checked: &Checked) -> Result<()> {
    Parts::of(vm)?.replace(&checked.states, checked.clock)
}

/// Loads RAM, and lets devices derive what follows from their state.
pub(crate) fn load_ram(vm: &Vm, source: Source<'_>) -> Result<()> {
    let parts = Parts::of(vm)?;
    parts.read(source, true)?;
    parts.settle();
    Ok(())
}
