//! CPU properties (`-cpu MODEL,name=value`): names, defaults and messages as QEMU 10.0 has them.
//!
//! Properties are collected in any order and take effect together, since some only make sense with
//! others. What is not built can be switched off but not on: SVE, SME, 52-bit addresses. The board
//! decides on EL2 and EL3, as in QEMU, so `has_el2` and `has_el3` can only take away.
//! Not offered: `x-rme`, `tag-memory`, links and counts that boards set.

use crate::features::{Features, Pac};

type Result<T> = qapi::Result<T>;

/// What was asked for.
struct Asked {
    pauth: bool,
    impdef: bool,
    qarma3: bool,
    qarma5: bool,
    default_qarma5: bool,
    pmu: bool,
    vfp: bool,
    neon: bool,
    cfgend: bool,
    slow_clock: bool,
    cntfrq: u64,
    has_el2: bool,
    has_el3: bool,
}

/// Properties of `max` alone.
const MAX_ONLY: &[&str] = &[
    "pauth",
    "pauth-impdef",
    "pauth-qarma3",
    "pauth-qarma5",
    "lpa2",
    "sve",
    "sme",
    "sme_fa64",
    "sve-max-vq",
];

fn error(text: impl Into<String>) -> qapi::Error {
    qapi::Error::generic(text.into())
}

fn switch(name: &str, value: &str) -> std::result::Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

fn number(name: &str, value: &str) -> std::result::Result<u64, String> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let parsed = match hex {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| format!("Parameter '{name}' expects uint64"))
}

/// A vector length property: `sve128` to `sve2048`, `sme128` to `sme2048`.
fn is_length(name: &str) -> bool {
    let bits = name.strip_prefix("sve").or_else(|| name.strip_prefix("sme"));
    let bits = bits.and_then(|b| b.parse::<u32>().ok());
    bits.is_some_and(|b| b % 128 == 0 && (128..=2048).contains(&b))
}

fn refuse_unbuilt(name: &str, value: &str) -> std::result::Result<(), String> {
    let on = if name == "sve-max-vq" { number(name, value)? != 0 } else { switch(name, value)? };
    if on { Err(format!("'{name}={value}' is not supported: it is not built")) } else { Ok(()) }
}

fn set(
    f: &mut Features,
    asked: &mut Asked,
    name: &str,
    value: &str,
) -> std::result::Result<(), String> {
    let known = f.model == "max" || !(MAX_ONLY.contains(&name) || is_length(name));
    let flag = || switch(name, value);
    match name {
        _ if !known => return Err(format!("Property '{}-arm-cpu.{name}' not found", f.model)),
        "pauth" => asked.pauth = flag()?,
        "pauth-impdef" => asked.impdef = flag()?,
        "pauth-qarma3" => asked.qarma3 = flag()?,
        "pauth-qarma5" => asked.qarma5 = flag()?,
        "backcompat-pauth-default-use-qarma5" => asked.default_qarma5 = flag()?,
        "backcompat-cntfrq" => asked.slow_clock = flag()?,
        "pmu" => asked.pmu = flag()?,
        "vfp" => asked.vfp = flag()?,
        "neon" => asked.neon = flag()?,
        "cfgend" => asked.cfgend = flag()?,
        "has_el2" => asked.has_el2 = flag()?,
        "has_el3" => asked.has_el3 = flag()?,
        // Only AArch32 starts at high vectors.
        "reset-hivecs" => _ = flag()?,
        "aarch64" if flag()? => {}
        "aarch64" => {
            let why = "'aarch64' feature cannot be disabled unless KVM is enabled and 32-bit EL1 is supported";
            return Err(why.into());
        }
        "midr" => f.id.midr = number(name, value)?,
        "reset-cbar" => f.cbar = number(name, value)?,
        "rvbar" => f.rvbar = Some(number(name, value)?),
        "cntfrq" => asked.cntfrq = number(name, value)?,
        "sve" | "sme" | "sme_fa64" | "lpa2" | "sve-max-vq" => refuse_unbuilt(name, value)?,
        _ if is_length(name) => refuse_unbuilt(name, value)?,
        _ => return Err(format!("Property '{}-arm-cpu.{name}' not found", f.model)),
    }
    Ok(())
}

/// Applies properties in order.
pub(crate) fn apply(f: &mut Features, props: &[(String, String)]) -> Result<()> {
    let mut asked = Asked {
        pauth: true,
        impdef: false,
        qarma3: false,
        qarma5: false,
        default_qarma5: false,
        pmu: true,
        vfp: true,
        neon: true,
        cfgend: false,
        slow_clock: false,
        cntfrq: 0,
        has_el2: true,
        has_el3: true,
    };
    for (name, value) in props {
        set(f, &mut asked, name, value).map_err(|why| {
            error(format!("can't apply global {}-arm-cpu.{name}={value}: {why}", f.model))
        })?;
    }
    match (asked.vfp, asked.neon) {
        (true, true) => {}
        (false, false) => return Err(error("ARM CPUs must have both VFP-D32 and Neon or neither")),
        _ => return Err(error("AArch64 CPUs must have both VFP and Neon or neither")),
    }
    finish(f, &asked)
}

fn finish(f: &mut Features, asked: &Asked) -> Result<()> {
    f.el2 &= asked.has_el2;
    f.el3 &= asked.has_el3;
    if !asked.pmu {
        f.id.dfr0 &= !0xf00;
        f.id.aarch32[0][2] &= !0x0f00_0000;
    }
    if asked.slow_clock {
        f.cntfrq = 62_500_000;
    }
    if asked.cntfrq != 0 {
        f.cntfrq = asked.cntfrq;
    }
    if asked.cfgend {
        f.sctlr |= 1 << 25;
    }
    pointer_authentication(f, asked)
}

/// API, GPI; APA, GPA; APA3, GPA3: where each algorithm is advertised.
fn pointer_authentication(f: &mut Features, asked: &Asked) -> Result<()> {
    let chosen = [asked.impdef, asked.qarma3, asked.qarma5].iter().filter(|on| **on).count();
    let level = f.pauth();
    if level == 0 {
        return Ok(());
    }
    f.id.isar1 &= !0xff00_0ff0;
    f.id.isar2 &= !0xff00;
    if !asked.pauth {
        return match chosen {
            0 => Ok(()),
            _ => {
                Err(error("cannot enable pauth-impdef, pauth-qarma3 or pauth-qarma5 without pauth"))
            }
        };
    }
    if chosen > 1 {
        let why = "cannot enable pauth-impdef, pauth-qarma3 and pauth-qarma5 at the same time";
        return Err(error(why));
    }
    f.pac = if asked.qarma3 {
        Pac::Qarma3
    } else if asked.qarma5 || asked.default_qarma5 && !asked.impdef {
        Pac::Qarma5
    } else {
        Pac::Impdef
    };
    match f.pac {
        Pac::Impdef => f.id.isar1 |= level << 8 | 1 << 28,
        Pac::Qarma5 => f.id.isar1 |= level << 4 | 1 << 24,
        Pac::Qarma3 => f.id.isar2 |= level << 12 | 1 << 8,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(model: &str, props: &[(&str, &str)]) -> std::result::Result<Features, String> {
        let mut f = Features::of_model(model).ok_or("no model")?;
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let props: Vec<_> = props.iter().map(own).collect();
        apply(&mut f, &props).map_err(|e| e.to_string())?;
        Ok(f)
    }

    #[test]
    fn the_algorithm_is_advertised_where_it_belongs() {
        let isar = |props: &[(&str, &str)]| {
            let f = with("max", props).expect("accepted");
            (f.id.isar1 >> 24 & 0xff, f.id.isar1 >> 4 & 0xff, f.id.isar2 >> 8 & 0xff, f.pauth())
        };
        assert_eq!(isar(&[]), (0x10, 0x50, 0, 5));
        assert_eq!(isar(&[("pauth-impdef", "on")]), (0x10, 0x50, 0, 5));
        assert_eq!(isar(&[("pauth-qarma5", "on")]), (1, 5, 0, 5));
        assert_eq!(isar(&[("pauth-qarma3", "on")]), (0, 0, 0x51, 5));
        assert_eq!(isar(&[("pauth", "off")]), (0, 0, 0, 0));
        assert_eq!(isar(&[("backcompat-pauth-default-use-qarma5", "on")]), (1, 5, 0, 5));
    }

    #[test]
    fn messages_are_qemus() {
        let fails = |model, props: &[(&str, &str)]| with(model, props).expect_err("refused");
        assert_eq!(
            fails("max", &[("pauth-qarma5", "on"), ("pauth-qarma3", "on")]),
            "cannot enable pauth-impdef, pauth-qarma3 and pauth-qarma5 at the same time"
        );
        assert_eq!(
            fails("max", &[("pauth", "off"), ("pauth-qarma5", "on")]),
            "cannot enable pauth-impdef, pauth-qarma3 or pauth-qarma5 without pauth"
        );
        assert_eq!(
            fails("cortex-a57", &[("sve", "off")]),
            "can't apply global cortex-a57-arm-cpu.sve=off: Property 'cortex-a57-arm-cpu.sve' not found"
        );
        assert_eq!(
            fails("max", &[("pauth", "maybe")]),
            "can't apply global max-arm-cpu.pauth=maybe: Parameter 'pauth' expects 'on' or 'off'"
        );
        assert!(fails("max", &[("sve", "on")]).contains("not built"));
        assert!(fails("max", &[("sve256", "on")]).contains("not built"));
    }

    #[test]
    fn what_is_not_built_can_be_switched_off() {
        let off = [("sve", "off"), ("sme", "off"), ("lpa2", "off"), ("sve512", "off")];
        assert!(with("max", &off).is_ok());
    }

    #[test]
    fn registers_follow_the_properties() {
        let f =
            with("cortex-a57", &[("pmu", "off"), ("midr", "0x1234"), ("cfgend", "on")]).unwrap();
        assert_eq!((f.id.midr, f.pmu(), f.sctlr >> 25 & 1), (0x1234, false, 1));
        let f = with("max", &[("cntfrq", "100000"), ("reset-cbar", "4096")]).unwrap();
        assert_eq!((f.cntfrq, f.cbar), (100_000, 4096));
        assert_eq!(with("max", &[("backcompat-cntfrq", "on")]).unwrap().cntfrq, 62_500_000);
    }
}
