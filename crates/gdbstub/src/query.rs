//! Queries and settings: `q…` and `Q…`.

use vmm::Vm;

use crate::hex;
use crate::packet::MAX_PACKET;
use crate::session::{STEP_BITS, Stub, thread_id};

/// The reply; empty for what is not known, as the protocol wants.
pub(crate) fn answer(stub: &Stub, text: &str) -> String {
    let (name, rest) = text.split_once([':', ',']).unwrap_or((text, ""));
    match name {
        "qSupported" => supported(stub, rest),
        "qXfer" => transfer(stub, rest).unwrap_or_else(|| "E00".into()),
        "QStartNoAckMode" => {
            stub.set_acks(false);
            "OK".into()
        }
        "qAttached" => "1".into(),
        "qC" => {
            let state = stub.state.lock();
            format!("QC{}", state.thread(state.cpu))
        }
        "qfThreadInfo" => {
            let count = stub.cpus();
            let state = stub.state.lock();
            let names: Vec<String> = (0..count).map(|cpu| state.thread(cpu)).collect();
            format!("m{}", names.join(","))
        }
        "qsThreadInfo" => "l".into(),
        "qThreadExtraInfo" => extra_info(stub, rest).unwrap_or_default(),
        "qRcmd" => command(stub, rest).unwrap_or_else(|| "E22".into()),
        "qSymbol" => "OK".into(),
        "qqemu.sstepbits" => "ENABLE=1,NOIRQ=2,NOTIMER=4".into(),
        "qqemu.sstep" => format!("0x{:x}", stub.state.lock().step_mode),
        "qqemu.PhyMemMode" => u8::from(stub.state.lock().physical).to_string(),
        "Qqemu.PhyMemMode" => {
            stub.state.lock().physical = rest != "0";
            "OK".into()
        }
        _ => match text.strip_prefix("Qqemu.sstep=") {
            Some(mode) => match hex::number(mode).and_then(|m| u8::try_from(m).ok()) {
                // Steps here take no interrupts and no timers pass; anything else is refused.
                Some(mode) if mode == STEP_BITS => "OK".into(),
                _ => "E22".into(),
            },
            None => String::new(),
        },
    }
}

fn supported(stub: &Stub, features: &str) -> String {
    stub.state.lock().multiprocess = features.split(';').any(|f| f == "multiprocess+");
    format!(
        "PacketSize={MAX_PACKET:x};qXfer:features:read+;QStartNoAckMode+;vContSupported+;\
         multiprocess+"
    )
}

/// `qXfer:features:read:FILE:OFFSET,LENGTH`.
fn transfer(stub: &Stub, text: &str) -> Option<String> {
    let rest = text.strip_prefix("features:read:")?;
    let (file, range) = rest.rsplit_once(':')?;
    let (offset, len) = hex::pair(range, ',')?;
    let registers = stub.registers();
    let text = if file == "target.xml" {
        let files = registers.groups.iter();
        let include = files.map(|g| format!("  <xi:include href=\"{}\"/>\n", g.file));
        format!(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n  \
             <architecture>{}</architecture>\n{}</target>\n",
            registers.architecture,
            include.collect::<String>()
        )
    } else {
        registers.groups.into_iter().find(|g| g.file == file)?.xml
    };
    let start = usize::try_from(offset).ok()?.min(text.len());
    let len = usize::try_from(len).ok()?.min(MAX_PACKET / 2 - 1);
    let end = start.saturating_add(len).min(text.len());
    let more = if end < text.len() { 'm' } else { 'l' };
    Some(format!("{more}{}", text.get(start..end)?))
}

fn extra_info(stub: &Stub, text: &str) -> Option<String> {
    let cpu = thread_id(text)??;
    let runs = stub.with(cpu, |cpu| cpu.runnable())?;
    let state = if runs { "running" } else { "halted " };
    Some(hex::encode(format!("CPU#{cpu} [{state}]").as_bytes()))
}

/// A line of the human monitor.
fn command(stub: &Stub, text: &str) -> Option<String> {
    let line = String::from_utf8(hex::decode(text.as_bytes())?).ok()?;
    let vm: std::sync::Arc<Vm> = stub.vm.upgrade()?;
    let output = vm.human(&line).unwrap_or_default().replace('\r', "");
    if output.is_empty() {
        return Some("OK".into());
    }
    // One reply holds at most half a packet of text.
    let bytes = output.as_bytes();
    Some(hex::encode(bytes.get(..bytes.len().min(MAX_PACKET / 2 - 1))?))
}
