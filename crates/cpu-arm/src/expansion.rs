//! `query-cpu-model-expansion`: the properties of a model as they end up.
//!
//! Only properties that management programs compare are told, those of QEMU 10.0 for
//! Arm; of what is not built (SVE) it is told that it is off. Source: the peer's replies.

use crate::features::{Features, Pac};
use crate::props;

/// Properties told of `max`.
const OF_MAX: &[&str] = &["pauth", "pauth-impdef", "pauth-qarma3", "pauth-qarma5", "sve"];

/// Names and values of a model's properties once `asked` are applied; `None`: no such model.
///
/// # Errors
/// A property that cannot be set, or that is not told.
pub(crate) fn expand(
    model: &str,
    asked: &[(String, String)],
) -> Option<qapi::Result<Vec<(&'static str, bool)>>> {
    let mut f = Features::of_model(model)?;
    let max = model == "max";
    let told = |name: &str| matches!(name, "aarch64" | "pmu") || max && OF_MAX.contains(&name);
    if let Some((name, _)) = asked.iter().find(|(name, _)| !told(name)) {
        return Some(Err(qapi::Error::unexpected(&format!("model.props.{name}"))));
    }
    if let Err(error) = props::apply(&mut f, asked) {
        return Some(Err(error));
    }
    let mut list = vec![("aarch64", true), ("pmu", f.id.dfr0 >> 8 & 15 != 0)];
    if max {
        let pauth = f.pauth() != 0;
        let own = |pac| pauth && f.pac == pac;
        // The algorithm by default is told by none being on, as the peer does.
        let chosen = |name: &str| asked.iter().any(|(n, v)| n == name && v == "on");
        list.push(("pauth", pauth));
        list.push(("pauth-impdef", own(Pac::Impdef) && chosen("pauth-impdef")));
        list.push(("pauth-qarma3", own(Pac::Qarma3)));
        list.push(("pauth-qarma5", own(Pac::Qarma5) && chosen("pauth-qarma5")));
        list.push(("sve", false));
    }
    Some(Ok(list))
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn properties_are_told_as_they_end_up() {
        let on = |name: &str| vec![(name.to_owned(), "on".to_owned())];
        let a57 = expand("cortex-a57", &[]).unwrap().unwrap();
        assert_eq!(a57.iter().map(|(n, _)| *n).collect::<Vec<_>>(), ["aarch64", "pmu"]);
        let max = expand("max", &on("pauth-qarma5")).unwrap().unwrap();
        assert!(max.contains(&("pauth-qarma5", true)) && max.contains(&("sve", false)));
        assert!(expand("cortex-a57", &on("pauth")).unwrap().is_err());
        assert!(expand("max", &on("sve")).unwrap().is_err());
        assert!(expand("nope", &[]).is_none());
    }
}
