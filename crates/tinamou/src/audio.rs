//! `-audiodev`: sound of the host.
//!
//! There are no sound cards, so the one driver is `none`; what it is given is checked and nothing
//! plays. Not modelled: `alsa`, `oss`, `wav` and the others, settings of `in` and `out`.

use derive::Qapi;
use qapi::{Qapi as _, Source, Value, keyval::Dialect};

use crate::fail::{At as _, Step, Stop};
use crate::settings::Placed;

/// A driver of sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
enum AudiodevDriver {
    /// Nothing is played.
    None,
}

/// A back end for sound.
#[derive(Debug, Qapi)]
struct Audiodev {
    /// Its name.
    id: String,
    /// What plays.
    driver: AudiodevDriver,
    /// Microseconds between two looks at the sound cards.
    timer_period: Option<u32>,
}

/// Checks one.
pub(crate) fn check(given: &Placed) -> Step<()> {
    if given.value == "help" {
        println!("Available audio drivers:\nnone");
        return Err(Stop::Done);
    }
    let (value, source): (Value, Source) = if given.value.starts_with('{') {
        (qapi::json::from_str(&given.value).at(&given.place)?, Source::Json)
    } else {
        let parsed = Dialect::structured(Some("driver")).parse(&given.value).at(&given.place)?;
        (parsed.value, Source::KeyVal)
    };
    Audiodev::from_value(value, source).at(&given.place)?;
    Ok(())
}
