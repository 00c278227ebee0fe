//! `-icount`: instructions make the guest's time.
//!
//! `shift=N` (0 to 10) says that an instruction takes 2^N nanoseconds; `sleep=off` skips time in which no
//! CPU has anything to do. As at QEMU, without `shift` the option has no effect. `shift=auto`, `align=on`
//! and `rr` are refused: they are not built. Source: QEMU's manual and the messages of QEMU 10.0.2.

use qapi::keyval::Dialect;

use crate::{
    fail::{At as _, Step, Stop},
    settings::Placed,
};

/// What `-icount` asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Icount {
    /// log2 of nanoseconds per instruction; `None`: no counting.
    pub(crate) shift: Option<u32>,
    /// Whether idle time is waited for.
    pub(crate) sleep: bool,
}

fn switch(given: &Placed, key: &str, text: &str) -> Step<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Stop::at(&given.place, format!("Parameter '{key}' expects 'on' or 'off'"))),
    }
}

/// Reads the option.
pub(crate) fn parse(given: &Placed) -> Step<Icount> {
    let value = Dialect::flat(Some("shift")).parse(&given.value).at(&given.place)?.value;
    let (mut icount, mut align) = (Icount { shift: None, sleep: true }, false);
    let refuse = |what: &str| Err(Stop::at(&given.place, format!("{what} is not available here")));
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        match key.as_str() {
            "shift" if text == "auto" => return refuse("'shift=auto'"),
            "shift" => {
                let shift = text.parse().ok().filter(|n| *n <= 10);
                let invalid = || Stop::at(&given.place, "icount: Invalid shift value");
                icount.shift = Some(shift.ok_or_else(invalid)?);
            }
            "align" => align = switch(given, key, text)?,
            "sleep" => icount.sleep = switch(given, key, text)?,
            "rr" | "rrfile" | "rrsnapshot" => return refuse("record and replay"),
            _ => return Err(qapi::Error::invalid_parameter(key)).at(&given.place),
        }
    }
    if align && !icount.sleep {
        return Err(Stop::at(&given.place, "align=on and sleep=off are incompatible"));
    }
    if align {
        return refuse("'align=on'");
    }
    Ok(icount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Step<Icount> {
        parse(&Placed { place: "-icount".into(), value: text.into() })
    }

    #[test]
    fn shifts_and_switches() {
        assert_eq!(read("3").ok(), Some(Icount { shift: Some(3), sleep: true }));
        let off = Icount { shift: Some(0), sleep: false };
        assert_eq!(read("shift=0,align=off,sleep=off").ok(), Some(off));
        assert_eq!(read("sleep=on").ok(), Some(Icount { shift: None, sleep: true }));
        for wrong in ["shift=11", "shift=x", "shift=auto", "foo=1", "3,align=on", "3,sleep=maybe"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
