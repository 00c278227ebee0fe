//! The commands (IHI 0069, 5.3).

use super::table::{DeviceEntry, EventEntry};
use super::{Its, PAGE, RING_OFFSET, Regs, STALLED, VALID};

/// Bytes of a command.
pub const COMMAND_LEN: u64 = 32;

const MOVI: u64 = 0x01;
const INT: u64 = 0x03;
const CLEAR: u64 = 0x04;
const SYNC: u64 = 0x05;
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const MAPI: u64 = 0x0b;
const INV: u64 = 0x0c;
const INVALL: u64 = 0x0d;
const MOVALL: u64 = 0x0e;
const DISCARD: u64 = 0x0f;

/// A command as it lies in memory.
struct Command([u64; 4]);

impl Command {
    fn device(&self) -> u32 {
        u32::try_from(self.0[0] >> 32).unwrap_or(u32::MAX)
    }
    fn event(&self) -> u32 {
        u32::try_from(self.0[1] & 0xffff_ffff).unwrap_or(u32::MAX)
    }
    fn collection(&self) -> u16 {
        u16::try_from(self.0[2] & 0xffff).unwrap_or(u16::MAX)
    }
    /// A processor number, as GITS_TYPER.PTA is 0.
    fn target(word: u64) -> u32 {
        u32::try_from(word >> 16 & 0xffff_ffff).unwrap_or(u32::MAX)
    }
    fn is_valid(&self) -> bool {
        self.0[2] & VALID != 0
    }
}

impl Its {
    /// Carries out what is in the ring.
    pub(super) fn run(&self, regs: &mut Regs) {
        if !regs.enabled || regs.cbaser & VALID == 0 || regs.creadr & STALLED != 0 {
            return;
        }
        let base = regs.cbaser & 0x000f_ffff_ffff_f000;
        let len = ((regs.cbaser & 0xff) + 1) * PAGE;
        let end = regs.cwriter & RING_OFFSET;
        if end >= len || regs.creadr >= len {
            trace::guest_error!("gicv3_its: GITS_CWRITER {end:#x} is behind the ring");
            return;
        }
        while regs.creadr != end {
            let read = |n: u64| self.load(base.checked_add(regs.creadr + 8 * n)?, 8);
            let (Some(a), Some(b), Some(c), Some(d)) = (read(0), read(1), read(2), read(3)) else {
                trace::guest_error!("gicv3_its: a command cannot be read; stalled");
                regs.creadr |= STALLED;
                break;
            };
            let command = Command([a, b, c, d]);
            if self.execute(regs, &command).is_none() {
                let [a, b, c, _] = command.0;
                trace::guest_error!("gicv3_its: command {a:#x} {b:#x} {c:#x} has no effect");
            }
            regs.creadr = (regs.creadr + COMMAND_LEN) % len;
        }
        if let Some(lpis) = self.lpis.get() {
            lpis.refresh();
        }
    }

    /// `None` when the command is wrong.
    fn execute(&self, regs: &Regs, c: &Command) -> Option<()> {
        match c.0[0] & 0xff {
            MAPD => self.map_device(regs, c),
            MAPC => self.map_collection(regs, c),
            MAPTI => self.map_event(regs, c, u32::try_from(c.0[1] >> 32).ok()?),
            MAPI => self.map_event(regs, c, c.event()),
            MOVI => self.move_event(regs, c),
            DISCARD => {
                self.signal(regs, c, false)?;
                self.set_event(self.device(regs, c.device())?, c.event(), None)
            }
            INT => self.signal(regs, c, true),
            CLEAR => self.signal(regs, c, false),
            INV => {
                let (cpu, _) = self.translate(regs, c.device(), c.event())?;
                self.lpis.get()?.invalidate(cpu);
                Some(())
            }
            INVALL => {
                let cpu = self.collection(regs, c.collection())?;
                self.lpis.get()?.invalidate(cpu);
                Some(())
            }
            MOVALL => {
                let (from, to) = (Command::target(c.0[2]), Command::target(c.0[3]));
                let lpis = self.lpis.get()?;
                (from < lpis.cpus() && to < lpis.cpus()).then(|| lpis.move_all(from, to))
            }
            SYNC => Some(()),
            _ => None,
        }
    }

    fn map_device(&self, regs: &Regs, c: &Command) -> Option<()> {
        let bits = u32::try_from(c.0[1] & 31).ok()? + 1;
        if bits > 16 {
            return None;
        }
        let new = DeviceEntry { events: c.0[2] & 0x000f_ffff_ffff_ff00, bits };
        self.set_device(regs, c.device(), c.is_valid().then_some(new))
    }

    fn map_collection(&self, regs: &Regs, c: &Command) -> Option<()> {
        let cpu = Command::target(c.0[2] & !VALID);
        if c.is_valid() && cpu >= self.lpis.get()?.cpus() {
            return None;
        }
        let cpu = u16::try_from(cpu).ok();
        self.set_collection(regs, c.collection(), cpu.filter(|_| c.is_valid()))
    }

    fn map_event(&self, regs: &Regs, c: &Command, intid: u32) -> Option<()> {
        let device = self.device(regs, c.device())?;
        let new = EventEntry { intid, collection: c.collection() };
        self.set_event(device, c.event(), Some(new))
    }

    fn move_event(&self, regs: &Regs, c: &Command) -> Option<()> {
        let device = self.device(regs, c.device())?;
        let old = self.event(device, c.event())?;
        let from = self.collection(regs, old.collection)?;
        let to = self.collection(regs, c.collection())?;
        self.lpis.get()?.move_one(from, to, old.intid);
        let new = EventEntry { collection: c.collection(), ..old };
        self.set_event(device, c.event(), Some(new))
    }

    fn signal(&self, regs: &Regs, c: &Command, pending: bool) -> Option<()> {
        let (cpu, intid) = self.translate(regs, c.device(), c.event())?;
        self.lpis.get()?.set(cpu, intid, pending);
        Some(())
    }
}
