//! `-boot`: what firmware is told of booting.
//!
//! `order` has no effect where firmware goes by boot indices, as at the peer; letters are checked.
//! `once` is refused, since the machine has no way to follow it. Source: QEMU's manual and behaviour.

use machine::BootOptions;
use qapi::keyval::Dialect;

use crate::fail::{At as _, Step, Stop};
use crate::settings::Placed;

/// Largest picture.
const MAX_SPLASH: u64 = 16 << 20;

/// Adds an option to what was said before.
pub(crate) fn add(to: &mut BootOptions, given: &Placed) -> Step<()> {
    let place = given.place.as_str();
    let value = Dialect::flat(Some("order")).parse(&given.value).at(place)?.value;
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        match key.as_str() {
            "order" => letters(text).at(place)?,
            "once" => {
                letters(text).at(place)?;
                return Err(Stop::new(
                    "no function defined to set boot device list for this architecture",
                ));
            }
            "menu" => to.menu = switch(key, text).at(place)?,
            "strict" => to.strict = switch(key, text).at(place)?,
            "splash" => to.splash = Some(picture(text)?),
            "splash-time" => to.splash_time = Some(time("splash-time", text)?),
            "reboot-timeout" => {
                let limit = "reboot timeout is invalid,it should be a value between -1 and 65535";
                let number = qapi::parse_int(text).ok_or_else(|| Stop::new(limit))?;
                to.reboot_timeout = match number {
                    -1 => None,
                    n => Some(u16::try_from(n).map_err(|_| Stop::new(limit))?),
                };
            }
            other => {
                let text = format!("Parameter 'boot.{other}' is unexpected");
                return Err(Stop::new(text));
            }
        }
    }
    Ok(())
}

fn letters(text: &str) -> qapi::Result<()> {
    let mut seen = String::new();
    for c in text.chars() {
        if !('a'..='p').contains(&c) {
            return Err(qapi::Error::generic(format!("Invalid boot device '{c}'")));
        }
        if seen.contains(c) {
            return Err(qapi::Error::generic(format!("Boot device '{c}' was given twice")));
        }
        seen.push(c);
    }
    Ok(())
}

fn switch(name: &str, text: &str) -> qapi::Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(qapi::Error::expects(name, "'on' or 'off'")),
    }
}

fn time(name: &str, text: &str) -> Step<u16> {
    let number = qapi::parse_int(text).and_then(|n| u16::try_from(n).ok());
    number.ok_or_else(|| {
        Stop::new(format!("{name} is invalid, it should be a value between 0 and 65535"))
    })
}

fn picture(path: &str) -> Step<(&'static str, Vec<u8>)> {
    let fail = |text: &str| Stop::new(format!("splash file '{path}' {text}"));
    let len = std::fs::metadata(path).map_err(|_| fail("cannot be opened"))?.len();
    if len > MAX_SPLASH {
        return Err(fail("is larger than 16 MiB"));
    }
    let data = std::fs::read(path).map_err(|_| fail("cannot be read"))?;
    // Bits per pixel of a bitmap are at 28.
    match data.get(..2) {
        Some([0xff, 0xd8]) => Ok(("bootsplash.jpg", data)),
        Some(b"BM") if data.get(28..30) == Some(&[24, 0]) => Ok(("bootsplash.bmp", data)),
        _ => Err(fail("format not recognized; must be JPEG or 24 bit BMP")),
    }
}
