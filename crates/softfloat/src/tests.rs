//! Against the host's FPU (binary32, binary64, to nearest) and against its MXCSR-independent laws.

use super::*;

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn f64(&mut self) -> u64 {
        let r = self.next();
        match r >> 60 {
            0 => [0, 1 << 63, F64.infinity(false), F64.infinity(true), 1, F64.max(false)]
                [(r % 6) as usize],
            1 => r & 0x800f_ffff_ffff_ffff,
            2..=9 => r & 0x800f_ffff_ffff_ffff | (1023 - 40 + (self.next() % 80)) << 52,
            _ => r & !(1 << 62) | (self.next() & 1) << 62,
        }
    }
    fn f32(&mut self) -> u64 {
        let r = self.next();
        match r >> 60 {
            0 => [0, 1 << 31, F32.infinity(false), F32.infinity(true), 1, F32.max(false)]
                [(r % 6) as usize],
            1 => r & 0x807f_ffff,
            2..=9 => r & 0x807f_ffff | (127 - 20 + (self.next() % 40)) << 23,
            _ => r & 0xffff_ffff,
        }
    }
}

fn same64(ours: u64, host: f64) -> bool {
    if host.is_nan() { F64.is_nan(ours) } else { ours == host.to_bits() }
}
fn same32(ours: u64, host: f32) -> bool {
    if host.is_nan() { F32.is_nan(ours) } else { ours == u64::from(host.to_bits()) }
}

#[test]
fn binary64_agrees_with_the_host() {
    let mut r = Rng(1);
    for _ in 0..300_000 {
        let (a, b, c) = (r.f64(), r.f64(), r.f64());
        let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
        let mut s = Status::default();
        assert!(same64(s.add(F64, a, b), x + y), "{x:e} + {y:e}");
        assert!(same64(s.sub(F64, a, b), x - y), "{x:e} - {y:e}");
        assert!(same64(s.mul(F64, a, b), x * y), "{x:e} * {y:e}");
        assert!(same64(s.div(F64, a, b), x / y), "{x:e} / {y:e}");
        assert!(same64(s.sqrt(F64, a), x.sqrt()), "sqrt {x:e}");
        assert!(same64(s.mul_add(F64, c, a, b), x.mul_add(y, z)), "fma {x:e} {y:e} {z:e}");
        assert!(same32(s.convert(F64, F32, a), x as f32), "{x:e} to f32");
        assert_eq!(s.to_int(F64, a, 64, true, 0, Rounding::Zero) as i64, x as i64, "{x:e}");
        assert_eq!(s.to_int(F64, a, 32, false, 0, Rounding::Zero) as u32, x as u32, "{x:e}");
        assert!(same64(s.round_to_integral(F64, a, Rounding::Down, false), x.floor()));
        assert!(same64(
            s.round_to_integral(F64, a, Rounding::NearestEven, false),
            x.round_ties_even()
        ));
        assert!(same64(s.from_int(F64, a, true, 0), a as i64 as f64));
        assert!(same32(s.from_int(F32, a, false, 0), a as f32));
    }
}

#[test]
fn binary32_agrees_with_the_host() {
    let mut r = Rng(2);
    for _ in 0..300_000 {
        let (a, b, c) = (r.f32(), r.f32(), r.f32());
        let (x, y, z) =
            (f32::from_bits(a as u32), f32::from_bits(b as u32), f32::from_bits(c as u32));
        let mut s = Status::default();
        assert!(same32(s.add(F32, a, b), x + y), "{x:e} + {y:e}");
        assert!(same32(s.mul(F32, a, b), x * y), "{x:e} * {y:e}");
        assert!(same32(s.div(F32, a, b), x / y), "{x:e} / {y:e}");
        assert!(same32(s.sqrt(F32, a), x.sqrt()), "sqrt {x:e}");
        assert!(same32(s.mul_add(F32, c, a, b), x.mul_add(y, z)), "fma {x:e} {y:e} {z:e}");
        assert!(same64(s.convert(F32, F64, a), f64::from(x)), "{x:e} to f64");
    }
}

#[test]
fn flags_and_special_cases_are_arms() {
    let mut s = Status::default();
    assert_eq!(s.div(F32, F32.power_of_two(0), 0), F32.infinity(false));
    assert_eq!(s.flags, flag::DZC);
    s.flags = 0;
    assert_eq!(s.add(F64, F64.infinity(false), F64.infinity(true)), F64.default_nan());
    assert_eq!(s.flags, flag::IOC);
    // A signalling NaN wins over an earlier quiet one and is made quiet.
    s.flags = 0;
    let (q, sn) = (0x7fc0_0001, 0x7f80_0002);
    assert_eq!(s.add(F32, q, sn), 0x7fc0_0002);
    assert_eq!(s.flags, flag::IOC);
    // Flush to zero: denormal input.
    let mut fz = Status::from_fpcr(1 << 24);
    assert_eq!(fz.add(F32, 1, 0), 0);
    assert_eq!(fz.flags, flag::IDC);
    // Tiny before rounding, though it rounds to the least normal number.
    let mut t = Status::default();
    let just_below = t.mul(F32, 0x0080_0001, 0x3f7f_fffe);
    assert_eq!((just_below, t.flags & flag::UFC), (0x0080_0000, flag::UFC));
}

#[test]
fn half_precision_conversions() {
    let mut s = Status::default();
    assert_eq!(s.convert(F32, F16, 0x3f80_0000), 0x3c00);
    assert_eq!(s.convert(F16, F32, 0x0001), u64::from((2f32.powi(-24)).to_bits()));
    assert_eq!(s.convert(F32, F16, u64::from(65520f32.to_bits())), 0x7c00);
    let mut alt = Status::from_fpcr(1 << 26);
    assert_eq!(alt.convert(F32, F16, u64::from(65536f32.to_bits())), 0x7c00);
    assert_eq!(alt.convert(F16, F32, 0x7c00), u64::from(65536f32.to_bits()));
    assert_eq!(alt.flags, 0);
}

#[test]
fn nothing_panics_on_random_bits_in_any_mode() {
    let mut r = Rng(3);
    for _ in 0..100_000 {
        let (a, b, c) = (r.next(), r.next(), r.next());
        let mut s = Status::from_fpcr(r.next() as u32);
        for f in [F16, F32, F64] {
            let m = f.sign_bit() | (f.sign_bit() - 1);
            let (a, b, c) = (a & m, b & m, c & m);
            s.mul_add(f, a, b, c);
            s.recip_estimate(f, a);
            s.rsqrt_estimate(f, a);
            s.recip_step(f, a, b);
            s.rsqrt_step(f, a, b);
            s.recip_exponent(f, a);
            s.number(f, a, b, true);
            s.round_to_int_range(f, a, 32, Rounding::Zero);
            s.to_int_js(f, a);
            s.to_int(f, a, 16, true, 7, Rounding::NearestAway);
            s.convert(f, F16, a);
            s.convert_to_odd(f, F32, a);
        }
    }
}
