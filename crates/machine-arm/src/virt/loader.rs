//! `-device loader`: files, values and program counters, after everything else.

use std::io::Read as _;

use device::LoadRequest;
use firmware::Kernel;
use machine::Board;

/// Largest file.
const MAX_FILE: u64 = 1 << 30;

/// Carries out what the loaders of the command line ask for.
pub(super) fn load(board: &mut Board<'_>) -> qapi::Result<()> {
    for (number, (place, props)) in board.config.loaders.iter().enumerate() {
        let at_place = |e: qapi::Error| qapi::Error::generic(format!("{place}: {}", e.desc));
        let record = board.user_device("loader", &format!("loader[{number}]"), props.clone());
        let request = record.map_err(at_place)?.ability::<LoadRequest>();
        let nothing = || at_place(qapi::Error::generic("please include valid arguments"));
        let request = request.ok_or_else(nothing)?;
        one(board, request).map_err(at_place)?;
    }
    Ok(())
}

fn one(board: &mut Board<'_>, request: LoadRequest) -> qapi::Result<()> {
    if let Some(cpu) = request.cpu.filter(|cpu| *cpu >= board.config.cpus) {
        return Err(qapi::Error::generic(format!("Specified boot CPU#{cpu} is nonexistent")));
    }
    let mut pc = request.address;
    if let Some(path) = &request.file {
        let failed = || qapi::Error::generic(format!("Cannot load specified image {path}"));
        let mut file = Vec::new();
        let open = std::fs::File::open(path).map_err(|_| failed())?;
        open.take(MAX_FILE + 1).read_to_end(&mut file).map_err(|_| failed())?;
        if file.len() as u64 > MAX_FILE {
            return Err(failed());
        }
        match Kernel::program(&file).filter(|_| !request.raw) {
            Some(Kernel::Elf(elf)) => {
                pc = elf.entry;
                for segment in elf.segments {
                    let mut data = segment.data;
                    let memory = usize::try_from(segment.memory).unwrap_or(data.len());
                    if segment.memory > board.config.ram_size {
                        return Err(failed());
                    }
                    data.resize(memory.max(data.len()), 0);
                    board.load(segment.address, data);
                }
            }
            Some(Kernel::At { data, address, entry }) => {
                pc = entry;
                board.load(address, data);
            }
            _ => board.load(request.address, file),
        }
    } else if !request.data.is_empty() {
        board.load(request.address, request.data);
    }
    if let Some(cpu) = request.cpu {
        board.set_boot_pc(cpu, pc);
    }
    Ok(())
}
