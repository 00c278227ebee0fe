//! Registers: names, first values, which bits can be written, aliases.
//!
//! Sources: 82574 data sheet, chapter 10; first values and masks are what QEMU 10.0's card shows.

use derive::VmState;

pub(super) const CTRL: u32 = 0x0000;
pub(super) const STATUS: u32 = 0x0008;
pub(super) const EECD: u32 = 0x0010;
pub(super) const EERD: u32 = 0x0014;
pub(super) const CTRL_EXT: u32 = 0x0018;
pub(super) const MDIC: u32 = 0x0020;
pub(super) const VET: u32 = 0x0038;
pub(super) const ICR: u32 = 0x00c0;
pub(super) const ITR: u32 = 0x00c4;
pub(super) const ICS: u32 = 0x00c8;
pub(super) const IMS: u32 = 0x00d0;
pub(super) const IMC: u32 = 0x00d8;
pub(super) const EIAC: u32 = 0x00dc;
pub(super) const IAM: u32 = 0x00e0;
pub(super) const IVAR: u32 = 0x00e4;
pub(super) const EITR: u32 = 0x00e8;
pub(super) const RCTL: u32 = 0x0100;
pub(super) const TCTL: u32 = 0x0400;
pub(super) const EEWR: u32 = 0x102c;
pub(super) const PSRCTL: u32 = 0x2170;
/// The registers of a receive or transmit queue begin here; the second queue's 0x100 later.
pub(super) const RX: u32 = 0x2800;
pub(super) const TX: u32 = 0x3800;
pub(super) const QUEUE_STEP: u32 = 0x100;
// From a queue's begin on.
pub(super) const BASE_LOW: u32 = 0x00;
pub(super) const BASE_HIGH: u32 = 0x04;
pub(super) const LEN: u32 = 0x08;
pub(super) const HEAD: u32 = 0x10;
pub(super) const TAIL: u32 = 0x18;
pub(super) const STATISTICS: u32 = 0x4000;
const STATISTICS_END: u32 = 0x4128;
pub(super) const RXCSUM: u32 = 0x5000;
pub(super) const RFCTL: u32 = 0x5008;
pub(super) const MTA: u32 = 0x5200;
pub(super) const RAL: u32 = 0x5400;
const RAL_END: u32 = 0x5480;
pub(super) const VFTA: u32 = 0x5600;
pub(super) const MRQC: u32 = 0x5818;
pub(super) const SWSM: u32 = 0x5b50;
pub(super) const PBACLR: u32 = 0x5b68;
pub(super) const RETA: u32 = 0x5c00;
pub(super) const RSSRK: u32 = 0x5c80;
pub(super) const SYSTIML: u32 = 0xb600;
pub(super) const SYSTIMH: u32 = 0xb604;

// Device control.
pub(super) const CTRL_MASTER_OFF: u32 = 1 << 2;
pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const CTRL_VME: u32 = 1 << 30;
pub(super) const CTRL_PHY_RST: u32 = 1 << 31;
// Device status.
pub(super) const STATUS_LINK: u32 = 1 << 1;
pub(super) const STATUS_PHYRA: u32 = 1 << 10;
pub(super) const STATUS_MASTER: u32 = 1 << 19;
// Extended device control.
pub(super) const EXT_EIAME: u32 = 1 << 24;
pub(super) const EXT_IAME: u32 = 1 << 27;
// Interrupt causes.
pub(super) const TXDW: u32 = 1;
pub(super) const TXQE: u32 = 1 << 1;
pub(super) const LSC: u32 = 1 << 2;
pub(super) const RXT0: u32 = 1 << 7;
pub(super) const RXO: u32 = 1 << 6;
pub(super) const MDAC: u32 = 1 << 9;
pub(super) const RXQ0: u32 = 1 << 20;
pub(super) const TXQ0: u32 = 1 << 22;
pub(super) const OTHER: u32 = 1 << 24;
pub(super) const ASSERTED: u32 = 1 << 31;
/// What makes [`OTHER`]: link, overrun, MDIO, small packets, acknowledgements, management.
pub(super) const OTHER_CAUSES: u32 = LSC | RXO | MDAC | 7 << 16;
// Receive control.
pub(super) const RCTL_EN: u32 = 1 << 1;
pub(super) const RCTL_UPE: u32 = 1 << 3;
pub(super) const RCTL_MPE: u32 = 1 << 4;
pub(super) const RCTL_LPE: u32 = 1 << 5;
pub(super) const RCTL_LBM: u32 = 3 << 6;
pub(super) const RCTL_BAM: u32 = 1 << 15;
pub(super) const RCTL_VFE: u32 = 1 << 18;
pub(super) const RCTL_BSEX: u32 = 1 << 25;
pub(super) const RCTL_SECRC: u32 = 1 << 26;
pub(super) const TCTL_EN: u32 = 1 << 1;
pub(super) const RFCTL_EXSTEN: u32 = 1 << 15;
// Receive checksum control.
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_L4: u32 = 1 << 9;
pub(super) const RXCSUM_PCSD: u32 = 1 << 13;

/// Words of the register file.
const WORDS: usize = 0x6000 / 4;
/// Longest frame that is being gathered.
pub(super) const MAX_GATHERED: usize = 131_072;

/// The contexts of a transmit queue: what the last context descriptor said.
#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "e1000e-tx", version = 1)]
pub(super) struct TxState {
    pub(super) ip: [u16; 3],
    pub(super) l4: [u16; 3],
    /// Payload length, header length, segment size.
    pub(super) payload: u32,
    pub(super) header: u8,
    pub(super) mss: u16,
    pub(super) tcp: bool,
    pub(super) v4: bool,
    /// What the packet's first descriptor asked for.
    pub(super) begun: bool,
    pub(super) options: u8,
    pub(super) command: u8,
    #[vmstate(max = 131_072)]
    pub(super) bytes: Vec<u8>,
}

/// Everything that changes.
#[derive(Clone, VmState)]
#[vmstate(name = "e1000e", version = 1)]
pub(super) struct State {
    #[vmstate(max = 6144)]
    regs: Vec<u32>,
    pub(super) time: [u32; 16],
    pub(super) phy: [u16; 32],
    #[vmstate(max = 64)]
    pub(super) nvm: Vec<u16>,
    pub(super) tx: [TxState; 2],
    /// Causes that messages were sent for.
    pub(super) told: u32,
    /// Until when each vector and the whole card keep silent.
    pub(super) silent: [u64; 6],
    pub(super) link_up: bool,
    /// The I/O window's register number.
    pub(super) io_address: u32,
}

/// Values after a reset that are not zero.
const FIRST: &[(u32, u32)] = &[
    (CTRL, 0x0014_0241),
    (EECD, 0x0000_0300),
    (EERD, 2),
    (VET, 0x8100),
    (0x0410, 0x0060_2008),
    (0x0e00, 0x0006_8302),
    (0x0f00, 8),
    (0x0f10, 0x30d),
    (0x1000, 0x0014_0014),
    (0x1008, 0x28),
    (0x1010, 0x8000_0000),
    (0x1028, 2),
    (EEWR, 2),
    (0x1030, 0xc000_0000),
    (0x1050, 1),
    (PSRCTL, 0x0004_0402),
    (0x2828, 0x0001_0000),
    (0x2928, 0x0001_0000),
    (0x3410, 0x600),
    (0x3418, 0x600),
    (0x3420, 0x600),
    (0x3428, 0x600),
    (0x3840, 0x403),
    (0x3940, 0x403),
    (RXCSUM, 0x300),
    (0x5820, 0x1000_0000),
    (0x5b00, 0x0680_0200),
    (0x5b30, 0x2000_0004),
    (SWSM, 1),
];

/// Ranges of plain registers with the bits that can be written.
const WRITABLE: &[(u32, u32, u32)] = &[
    (CTRL_EXT, CTRL_EXT, 0xffff_cfff),
    (0x001c, 0x001c, u32::MAX),
    (0x0028, 0x0028, u32::MAX),
    (0x002c, 0x0030, 0xffff),
    (VET, VET, 0xffff),
    (ITR, ITR, 0xffff),
    (EIAC, EIAC, u32::MAX),
    (IAM, IVAR, u32::MAX),
    (EITR, 0x00f8, 0xffff),
    (RCTL, RCTL, u32::MAX),
    (0x0170, 0x0170, 0xffff),
    (TCTL, TCTL, u32::MAX),
    (0x0410, 0x0410, u32::MAX),
    (0x0458, 0x0458, 0xffff),
    (0x0e00, 0x0e00, u32::MAX),
    (0x0f00, 0x0f00, u32::MAX),
    (0x0f08, 0x0f08, u32::MAX),
    (0x0f10, 0x0f10, u32::MAX),
    (0x1000, 0x1000, u32::MAX),
    (0x1008, 0x1008, 0x3f),
    (0x1010, 0x1010, u32::MAX),
    (0x1028, 0x1028, 0xffff),
    (0x1030, 0x103c, u32::MAX),
    (0x1050, 0x1050, u32::MAX),
    (0x2160, 0x2160, 0x8000_fff8),
    (0x2168, 0x2168, 0xfff8),
    (PSRCTL, PSRCTL, u32::MAX),
    (0x2410, 0x2430, 0x1fff),
    (0x2820, 0x2820, 0xffff),
    (0x2828, 0x2828, u32::MAX),
    (0x282c, 0x282c, 0xffff),
    (0x2928, 0x2928, u32::MAX),
    (0x2c00, 0x2c00, 0xfff),
    (0x2c08, 0x2c08, 0xffff),
    (0x3410, 0x3430, 0x1fff),
    (0x3820, 0x3820, 0xffff),
    (0x3828, 0x3828, u32::MAX),
    (0x382c, 0x382c, 0xffff),
    (0x3840, 0x3840, 0x7800_07ff),
    (0x3928, 0x3928, u32::MAX),
    (0x3940, 0x3940, 0x7800_07ff),
    (RXCSUM, RXCSUM, u32::MAX),
    (RFCTL, RFCTL, u32::MAX),
    (MTA, 0x53fc, u32::MAX),
    (RAL, 0x547c, u32::MAX),
    (VFTA, 0x57fc, u32::MAX),
    (0x5800, MRQC, u32::MAX),
    (0x5820, 0x5a7c, u32::MAX),
    (0x5b08, 0x5b2c, u32::MAX),
    (0x5b30, 0x5b30, u32::MAX),
    (SWSM, SWSM, u32::MAX),
    (0x5b64, 0x5b64, u32::MAX),
    (PBACLR, PBACLR, 0x1f),
    (RETA, 0x5cfc, u32::MAX),
    (0x5f00, 0x5f28, 0x7ff),
    (0x5f40, 0x5f40, 0xffff),
];

/// Bits of a plain register that can be written; `None`: there is no such register.
pub(super) fn writable(at: u32) -> Option<u32> {
    for begin in [RX, RX + QUEUE_STEP, TX, TX + QUEUE_STEP] {
        match at.checked_sub(begin) {
            Some(BASE_LOW) => return Some(0xffff_fff0),
            Some(BASE_HIGH) => return Some(u32::MAX),
            Some(LEN) => return Some(0x000f_ff80),
            Some(HEAD | TAIL) => return Some(0xffff),
            _ => {}
        }
    }
    WRITABLE.iter().find(|(from, to, _)| (*from..=*to).contains(&at)).map(|(.., mask)| *mask)
}

/// Registers that older cards had elsewhere: the place of today.
pub(super) fn alias(at: u32) -> u32 {
    match at {
        0x0040..=0x0044 => at - 0x40 + RAL,
        0x0108 => 0x2820,
        0x0110..=0x0128 => at - 0x110 + RX,
        0x0160 | 0x0168 => at - 0x160 + 0x2160,
        0x0420..=0x0438 => at - 0x420 + TX,
        0x0440 => 0x3820,
        0x0600..=0x07fc => at - 0x600 + VFTA,
        _ => at,
    }
}

/// PHY registers after a reset.
pub(super) const PHY: [u16; 32] = [
    0x1140, 0x796d, 0x0141, 0x0cb1, 0x0de1, 0x07e0, 0x0005, 0x2001, 0, 0x0f00, 0x3c00, 0, 0, 0, 0,
    0x3000, 0x3360, 0xac08, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Words of the configuration memory behind the address.
const NVM: [u16; 61] = [
    0x0420, 0xf746, 0x2010, 0xffff, 0xffff, 0, 0, 0x026b, 0x10d3, 0x8086, 0x10d3, 0, 0x8058, 0,
    0x2001, 0x7e7c, 0xffff, 0x1000, 0x00c8, 0, 0x2704, 0x6cc9, 0x3150, 0x070e, 0x460b, 0x2d84,
    0x0100, 0xf000, 0x0706, 0x6000, 0x0080, 0x0f04, 0x7fff, 0x4f01, 0xc600, 0, 0x20ff, 0x0028,
    0x0003, 0, 0, 0, 0x0003, 0, 0xffff, 0x0100, 0xc000, 0x121c, 0xc007, 0xffff, 0xffff, 0xffff,
    0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0, 0x0120, 0xffff, 0,
];
/// What the first 64 words add up to.
const NVM_SUM: u16 = 0xbaba;

/// The configuration memory of a card.
fn nvm(mac: net::Mac) -> Vec<u16> {
    let mut words: Vec<u16> =
        mac.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    words.extend(NVM);
    words.truncate(63);
    let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
    words.push(NVM_SUM.wrapping_sub(sum));
    words
}

impl State {
    pub(super) fn new(mac: net::Mac) -> State {
        let mut state = State {
            regs: vec![0; WORDS],
            time: [0; 16],
            phy: PHY,
            nvm: nvm(mac),
            tx: Default::default(),
            told: 0,
            silent: [0; 6],
            link_up: true,
            io_address: 0,
        };
        state.reset();
        state
    }

    /// As after a reset of the card; its address comes from the configuration memory.
    pub(super) fn reset(&mut self) {
        self.regs.iter_mut().for_each(|reg| *reg = 0);
        for (at, value) in FIRST {
            self.set(*at, *value);
        }
        let word = |at: usize| u32::from(self.nvm.get(at).copied().unwrap_or(0));
        let (low, high) = (word(0) | word(1) << 16, word(2) | 1 << 31);
        self.set(RAL, low);
        self.set(RAL + 4, high);
        self.time = [0; 16];
        // Ether type and port of PTP.
        (self.time[13], self.time[14]) = (0x88f7, 0x319);
        self.tx = Default::default();
        (self.told, self.silent) = (0, [0; 6]);
    }

    /// Whether a loaded state has the right shape.
    pub(super) fn is_sane(&self) -> bool {
        self.regs.len() == WORDS
            && self.nvm.len() == 64
            && self.tx.iter().all(|tx| tx.bytes.len() <= MAX_GATHERED)
    }

    pub(super) fn get(&self, at: u32) -> u32 {
        self.regs.get(at as usize / 4).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, at: u32, value: u32) {
        if let Some(reg) = self.regs.get_mut(at as usize / 4) {
            *reg = value;
        }
    }

    pub(super) fn is_set(&self, at: u32, bits: u32) -> bool {
        self.get(at) & bits != 0
    }

    /// Adds to a counter, which stops at its end.
    pub(super) fn count(&mut self, at: u32, more: u32) {
        self.set(at, self.get(at).saturating_add(more));
    }

    /// Adds to a counter of 64 bits.
    pub(super) fn count64(&mut self, at: u32, more: usize) {
        let old = u64::from(self.get(at)) | u64::from(self.get(at + 4)) << 32;
        let new = old.saturating_add(more as u64);
        self.set(at, u32::try_from(new & 0xffff_ffff).unwrap_or(0));
        self.set(at + 4, u32::try_from(new >> 32).unwrap_or(0));
    }

    /// Whether a register is a counter, which reading clears.
    pub(super) fn is_counter(at: u32) -> bool {
        (STATISTICS..STATISTICS_END).contains(&at)
    }

    /// The address of the card.
    pub(super) fn mac(&self) -> net::Mac {
        let ([a, b, c, d], [e, f, ..]) =
            (self.get(RAL).to_le_bytes(), self.get(RAL + 4).to_le_bytes());
        [a, b, c, d, e, f]
    }

    /// The exact addresses that are let through.
    pub(super) fn addresses(&self) -> impl Iterator<Item = net::Mac> {
        (RAL..RAL_END).step_by(8).filter_map(|at| {
            let (low, high) = (self.get(at).to_le_bytes(), self.get(at + 4));
            let ([a, b, c, d], [e, f, ..]) = (low, high.to_le_bytes());
            (high >> 31 != 0).then_some([a, b, c, d, e, f])
        })
    }
}
