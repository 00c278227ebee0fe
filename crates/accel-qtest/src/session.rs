//! The commands.

use std::sync::Arc;

use device::{AddressSpace, Clock, IrqOut, Size, TxAttrs};

use crate::{
    base64,
    line::{Line, from_hex, to_hex},
};

/// Finds the interrupt outputs of a device by path or id.
pub type Irqs = Box<dyn Fn(&str) -> Option<Vec<Arc<IrqOut>>> + Send>;

/// What a test program talks to.
pub struct Session {
    memory: AddressSpace,
    clock: Clock,
    irqs: Irqs,
    watched: Vec<(Arc<IrqOut>, bool)>,
}

/// A reply, or why there is none.
type Reply = Result<String, String>;

impl Session {
    /// A session over a machine's memory, clock and interrupt lines.
    pub fn new(memory: AddressSpace, clock: Clock, irqs: Irqs) -> Self {
        Self { memory, clock, irqs, watched: Vec::new() }
    }

    /// Runs a line; gives all lines of the reply.
    pub fn execute(&mut self, text: &str) -> String {
        let mut line = Line::new(text);
        let Some(command) = line.word() else { return "FAIL Unknown command ''\n".into() };
        let reply = self.command(command, &mut line);
        let mut text = self.irq_lines();
        match reply {
            Ok(reply) if reply.is_empty() => text.push_str("OK\n"),
            Ok(reply) => text.push_str(&format!("OK {reply}\n")),
            Err(reason) => text.push_str(&format!("FAIL {reason}\n")),
        }
        text
    }

    fn command(&mut self, command: &str, line: &mut Line<'_>) -> Reply {
        match command {
            "writeb" => self.write_number(line, Size::B1),
            "writew" => self.write_number(line, Size::B2),
            "writel" => self.write_number(line, Size::B4),
            "writeq" => self.write_number(line, Size::B8),
            "readb" => self.read_number(line, Size::B1),
            "readw" => self.read_number(line, Size::B2),
            "readl" => self.read_number(line, Size::B4),
            "readq" => self.read_number(line, Size::B8),
            "read" => self.read(line).map(|data| to_hex(&data)),
            "b64read" => self.read(line).map(|data| base64::encode(&data)),
            "write" => self.write(line, from_hex),
            "b64write" => self.write(line, base64::decode),
            "memset" => self.memset(line),
            "clock_step" => self.clock_step(line),
            "clock_set" => self.clock_set(line),
            "endianness" => Ok("little".into()),
            "irq_intercept_out" => self.watch(line),
            "irq_intercept_in" => {
                Err("Interrupt inputs cannot be watched; watch the outputs that lead to them"
                    .into())
            }
            _ => Err(format!("Unknown command '{command}'")),
        }
    }

    fn write_number(&self, line: &mut Line<'_>, size: Size) -> Reply {
        let address = number(line, "address")?;
        let value = number(line, "value")?;
        // A write that nothing takes is lost, as on the bus.
        _ = self.memory.write_uint(address, size, value & size.mask(), TxAttrs::default());
        Ok(String::new())
    }

    fn read_number(&self, line: &mut Line<'_>, size: Size) -> Reply {
        let address = number(line, "address")?;
        let value = self.memory.read_uint(address, size, TxAttrs::default()).unwrap_or(0);
        Ok(format!("{value:#018x}"))
    }

    fn read(&self, line: &mut Line<'_>) -> Result<Vec<u8>, String> {
        let address = number(line, "address")?;
        let mut data = vec![0; length(line)?];
        _ = self.memory.read(address, &mut data, TxAttrs::default());
        Ok(data)
    }

    fn write(&self, line: &mut Line<'_>, decode: fn(&str) -> Option<Vec<u8>>) -> Reply {
        let address = number(line, "address")?;
        let length = length(line)?;
        let mut data = decode(line.word().unwrap_or("")).ok_or("Bad data")?;
        data.resize(length, 0);
        _ = self.memory.write(address, &data, TxAttrs::default());
        Ok(String::new())
    }

    fn memset(&self, line: &mut Line<'_>) -> Reply {
        let address = number(line, "address")?;
        let length = length(line)?;
        let value = u8::try_from(number(line, "value")? & 0xff).unwrap_or(0);
        _ = self.memory.write(address, &vec![value; length], TxAttrs::default());
        Ok(String::new())
    }

    fn clock_step(&self, line: &mut Line<'_>) -> Reply {
        let now = self.clock.now_ns();
        let step = match line.word() {
            Some(word) => Line::new(word).number().ok_or("Bad time")?,
            None => self.clock.next_deadline().map_or(0, |deadline| deadline.saturating_sub(now)),
        };
        self.clock.advance(step.min(u64::MAX - now));
        Ok(self.clock.now_ns().to_string())
    }

    fn clock_set(&self, line: &mut Line<'_>) -> Reply {
        let to = number(line, "time")?;
        let now = self.clock.now_ns();
        if to > now {
            self.clock.advance(to - now);
        }
        Ok(self.clock.now_ns().to_string())
    }

    fn watch(&mut self, line: &mut Line<'_>) -> Reply {
        let path = line.word().ok_or("No device")?;
        let outputs = (self.irqs)(path).ok_or("Unknown device")?;
        if self.watched.is_empty() {
            self.watched = outputs.into_iter().map(|output| (output, false)).collect();
        }
        Ok(String::new())
    }

    fn irq_lines(&mut self) -> String {
        let mut text = String::new();
        for (number, (output, known)) in self.watched.iter_mut().enumerate() {
            let level = output.level();
            if std::mem::replace(known, level) != level {
                let verb = if level { "raise" } else { "lower" };
                text.push_str(&format!("IRQ {verb} {number}\n"));
            }
        }
        text
    }
}

fn number(line: &mut Line<'_>, what: &str) -> Result<u64, String> {
    line.number().ok_or_else(|| format!("Bad {what}"))
}

fn length(line: &mut Line<'_>) -> Result<usize, String> {
    line.length().ok_or_else(|| "Bad length".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Region;
    use guest_ram::RamBlock;

    fn session() -> (Session, Arc<IrqOut>) {
        let root = Region::root("system");
        let block = RamBlock::new("ram", 0x1000, guest_ram::RamOptions::default()).expect("memory");
        root.map(0x4000, &Region::ram("ram", block), 0);
        let irq = IrqOut::new();
        let given = irq.clone();
        let irqs: Irqs = Box::new(move |path| (path == "dev").then(|| vec![given.clone()]));
        (Session::new(AddressSpace::new("memory", &root), Clock::manual(), irqs), irq)
    }

    #[test]
    fn memory_is_read_and_written() {
        let (mut s, _) = session();
        for (line, want) in [
            ("writel 0x4000 0x12345678", "OK\n"),
            ("readb 0x4000", "OK 0x0000000000000078\n"),
            ("readq 16384", "OK 0x0000000012345678\n"),
            ("read 0x4000 4", "OK 0x78563412\n"),
            ("b64read 0x4000 4", "OK eFY0Eg==\n"),
            ("write 0x4004 3 0xa1b2c3", "OK\n"),
            ("b64write 0x4007 1 /w==", "OK\n"),
            ("readl 0x4004", "OK 0x00000000ffc3b2a1\n"),
            ("memset 0x4000 4096 0x55", "OK\n"),
            ("readw 0x4ffe", "OK 0x0000000000005555\n"),
            ("readl 0", "OK 0x0000000000000000\n"),
            ("endianness", "OK little\n"),
            ("readl", "FAIL Bad address\n"),
            ("read 0 0x7fffffffffffffff", "FAIL Bad length\n"),
            ("foo", "FAIL Unknown command 'foo'\n"),
            ("", "FAIL Unknown command ''\n"),
        ] {
            assert_eq!(s.execute(line), want, "{line}");
        }
    }

    #[test]
    fn time_moves_only_when_told_and_irqs_are_reported_before_the_reply() {
        let (mut s, irq) = session();
        assert_eq!(s.execute("clock_step 100"), "OK 100\n");
        assert_eq!(s.execute("clock_set 50"), "OK 100\n");
        let high = irq.clone();
        let timer = s.clock.timer(move || high.set(true));
        timer.arm_at(500);
        assert_eq!(s.execute("irq_intercept_out dev"), "OK\n");
        assert_eq!(s.execute("clock_step"), "IRQ raise 0\nOK 500\n");
        irq.set(false);
        assert_eq!(s.execute("clock_step"), "IRQ lower 0\nOK 500\n");
        assert_eq!(s.execute("irq_intercept_out nope"), "FAIL Unknown device\n");
    }
}
