//! Codes that blocks compute against those of `crate::pauth`.

use super::machine::{Machine, Stop};
use crate::features::Pac;
use crate::pauth::{InlinePac, Shape, check, sign};
use crate::state::sys_slot;
use crate::sysreg::Reg;

const PC: u64 = 0xffff_8000_1234_5100;
const PACIA: u32 = 0xdac1_0020; // pacia x0, x1
const AUTIA: u32 = 0xdac1_1020; // autia x0, x1
const PACIB: u32 = 0xdac1_0420; // pacib x0, x1
const AUTIB: u32 = 0xdac1_1420; // autib x0, x1

fn set(m: &mut Machine, r: Reg, v: u64) {
    let at = sys_slot(r) as usize;
    m.state[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

#[test]
fn codes_in_place_are_the_helpers() {
    let mut s = 0x0123_4567_89ab_cdefu64;
    let mut rng = move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    };
    for round in 0..4000u32 {
        let (tbi0, tbi1, b) = (round & 1 != 0, round & 2 != 0, round & 4 != 0);
        let bottom = [39, 48, 32, 52][round as usize >> 3 & 3];
        let on = InlinePac::Compute as u8;
        let mut m = Machine::new();
        m.key = m.key.with_tbi0(tbi0).with_tbi1(tbi1).with_pac_bottom(bottom);
        m.key = if b { m.key.with_pac_b(on) } else { m.key.with_pac_a(on) };
        let key = (rng(), rng());
        let regs = if b {
            (Reg::APIBKEYLO_EL1, Reg::APIBKEYHI_EL1)
        } else {
            (Reg::APIAKEYLO_EL1, Reg::APIAKEYHI_EL1)
        };
        set(&mut m, regs.0, key.0);
        set(&mut m, regs.1, key.1);
        let pointer = match rng() & 3 {
            0 => rng(),
            1 => rng() >> 17,
            2 => rng() | 0xffff << 48,
            _ => rng() & !(0xff << 56),
        };
        let modifier = rng();
        let shape = |p: u64| Shape {
            tbi: if p >> 55 & 1 != 0 { tbi1 } else { tbi0 },
            bottom: u32::from(bottom),
        };
        m.set_x(0, pointer);
        m.set_x(1, modifier);
        let (pac, aut) = if b { (PACIB, AUTIB) } else { (PACIA, AUTIA) };
        assert_eq!(m.run(&[pac], PC), Stop::Pc(PC + 4));
        let signed = sign(Pac::Impdef, &shape(pointer), pointer, modifier, key);
        assert_eq!(m.x(0), signed, "{pointer:x} {tbi0} {tbi1} {bottom}");
        // Sometimes with a flipped bit.
        let signed = if round & 256 != 0 { signed ^ 1 << (rng() & 63) } else { signed };
        m.set_x(0, signed);
        match check(Pac::Impdef, &shape(signed), signed, modifier, key) {
            Ok(p) => {
                assert_eq!(m.run(&[aut], PC), Stop::Pc(PC + 4));
                assert_eq!(m.x(0), p);
            }
            Err(_) => {
                assert_eq!(m.run(&[aut], PC), Stop::Helper("PacFail", u64::from(b), PC));
                assert_eq!(m.x(0), signed, "left as it was");
            }
        }
        assert!(m.calls.is_empty(), "{:?}", m.calls);
    }
}

#[test]
fn keys_that_are_off_do_nothing() {
    let mut m = Machine::new();
    m.key = m.key.with_pac_a(InlinePac::Off as u8);
    m.set_x(0, 0x1234);
    assert_eq!(m.run(&[PACIA, AUTIA], PC), Stop::Pc(PC + 8));
    assert_eq!(m.x(0), 0x1234);
    assert!(m.calls.is_empty());
}

#[test]
fn codes_depend_on_everything() {
    let s = Shape { tbi: false, bottom: 48 };
    let f = |p, m, k| sign(Pac::Impdef, &s, p, m, k) ^ p;
    let base = f(0x1234_5678, 0x7fff_0000, (5, 6));
    for n in 0..48 {
        assert_ne!(f(0x1234_5678 ^ 1 << n, 0x7fff_0000, (5, 6)), base, "pointer {n}");
    }
    for n in 0..64 {
        assert_ne!(f(0x1234_5678, 0x7fff_0000 ^ 1 << n, (5, 6)), base, "modifier {n}");
        assert_ne!(f(0x1234_5678, 0x7fff_0000, (5 ^ 1 << n, 6)), base, "key {n}");
        if n > 0 {
            assert_ne!(f(0x1234_5678, 0x7fff_0000, (5, 6 ^ 1 << n)), base, "key {n}");
        }
    }
}
