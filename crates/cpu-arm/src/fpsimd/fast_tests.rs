//! The host's results that [`super`] accepts against the software implementation.

use super::*;

/// Random values with many near the limits of a format and near each other.
struct Source(u64);

impl Source {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn value<R: Real>(&mut self) -> R {
        let f = R::FORMAT;
        let (x, kind) = (self.next(), self.next() >> 32 & 15);
        let one = f.power_of_two(0);
        let sign = x & f.sign_bit();
        let bits = match kind {
            0 => sign,
            1 => f.infinity(false) | sign,
            2 => f.default_nan() ^ (x & 0xff),
            3 => (x & 0xfff) | sign,
            4 => ((1 << f.frac) + (x & 3)) | sign,
            5 => (f.max(false) - (x & 3)) | sign,
            6 | 7 => (one + (x & 0xff)) | sign,
            8 | 9 => (one + (((x & 15) + 1) << (f.frac - 2))) | sign,
            10 => (one / 2 + (x >> 20 & 7) * (one / 16) + (x & 7)) | sign,
            _ => x,
        };
        R::lane(u128::from(bits), 0)
    }
}

fn check<O: Op2, R: Real>(soft: impl Fn(&mut Status, u64, u64) -> u64) {
    let mut s = Source(0x1234_5678_9abc_def1);
    for _ in 0..200_000 {
        let (n, m): (R, R) = (s.value(), s.value());
        let r = O::run(n, m);
        if !O::ok(n, m, r) {
            continue;
        }
        let mut status = Status::from_fpcr(0);
        let want = soft(&mut status, n.word(), m.word());
        let case = format!("{:#x} {:#x}", n.word(), m.word());
        assert_eq!(r.word(), want, "{case}");
        assert_eq!(status.flags & !flag::IXC, 0, "{case}");
        assert!(!O::exact(n, m, r) || status.flags == 0, "{case} is inexact");
    }
}

fn all<R: Real>() {
    let f = R::FORMAT;
    check::<Plus, R>(|s, n, m| s.add(f, n, m));
    check::<Minus, R>(|s, n, m| s.sub(f, n, m));
    check::<Times, R>(|s, n, m| s.mul(f, n, m));
    check::<NegTimes, R>(|s, n, m| s.mul(f, n, m) ^ f.sign_bit());
    check::<Over, R>(|s, n, m| s.div(f, n, m));
    check::<Root, R>(|s, n, _| s.sqrt(f, n));
    check::<Max, R>(|s, n, m| s.max(f, n, m));
    check::<Min, R>(|s, n, m| s.min(f, n, m));
    let mut s = Source(0x0fed_cba9_8765_4321);
    for _ in 0..200_000 {
        let (a, n, m): (R, R, R) = (s.value(), s.value(), s.value());
        let r = n.fused(m, a);
        if fused_ok(a, n, m, r) {
            let mut status = Status::from_fpcr(0);
            let want = status.mul_add(f, a.word(), n.word(), m.word());
            let case = format!("{:#x} + {:#x} * {:#x}", a.word(), n.word(), m.word());
            assert_eq!(r.word(), want, "{case}");
            assert_eq!(status.flags & !flag::IXC, 0, "{case}");
            assert!(!fused_exact(a, n, m, r) || status.flags == 0, "{case} is inexact");
        }
    }
}

#[test]
fn accepted_single_results_are_exact() {
    all::<f32>();
}

#[test]
fn accepted_double_results_are_exact() {
    all::<f64>();
}
