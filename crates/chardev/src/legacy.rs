//! The short forms of `-serial`, `-monitor` and their kin.

use qapi::Value;

/// A short form, rewritten.
#[derive(Clone, Debug, PartialEq)]
pub struct Legacy {
    /// Kind of back end; `None` for `none`.
    pub kind: Option<&'static str>,
    /// Its arguments as key=value text gives them: all scalars are strings.
    pub args: Value,
    /// Put it under a multiplexer.
    pub mux: bool,
    /// Attach a monitor to the multiplexer as well (`mon:`).
    pub monitor: bool,
}

impl Legacy {
    fn new(kind: &'static str, args: &[(&str, &str)]) -> Legacy {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        Legacy { kind: Some(kind), args: Value::Map(args), mux: false, monitor: false }
    }
}

/// Rewrites a short form such as `mon:stdio` or `unix:/tmp/s,server=on,wait=off`.
pub fn legacy(text: &str) -> qapi::Result<Legacy> {
    if let Some(rest) = text.strip_prefix("mon:") {
        let mut out = legacy(rest)?;
        if out.kind.is_none() {
            return Err(unknown(text));
        }
        if out.kind == Some("stdio")
            && let Value::Map(members) = &mut out.args
            && !members.iter().any(|(k, _)| k == "signal")
        {
            // Ctrl-C belongs to the guest; Ctrl-A x ends the emulator.
            members.push(("signal".into(), Value::from("off")));
        }
        return Ok(Legacy { mux: true, monitor: true, ..out });
    }
    match text {
        "none" => return Ok(Legacy { kind: None, ..Legacy::new("null", &[]) }),
        "null" | "ringbuf" => {
            return Ok(Legacy::new(if text == "null" { "null" } else { "ringbuf" }, &[]));
        }
        "stdio" => return Ok(Legacy::new("stdio", &[])),
        _ => {}
    }
    if let Some(path) = text.strip_prefix("file:") {
        return Ok(Legacy::new("file", &[("path", path)]));
    }
    if let Some(options) = text.strip_prefix("stdio,") {
        let mut out = Legacy::new("stdio", &[]);
        append_options(&mut out, options, text)?;
        return Ok(out);
    }
    if let Some(rest) = text.strip_prefix("unix:") {
        let (path, options) = split_options(rest);
        let mut out = Legacy::new("socket", &[("path", path)]);
        append_options(&mut out, options, text)?;
        return Ok(out);
    }
    if let Some(rest) = text.strip_prefix("tcp:") {
        let (address, options) = split_options(rest);
        let (host, port) = address.rsplit_once(':').ok_or_else(|| unknown(text))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut out = Legacy::new("socket", &[("host", host), ("port", port)]);
        append_options(&mut out, options, text)?;
        return Ok(out);
    }
    Err(unknown(text))
}

fn unknown(text: &str) -> qapi::Error {
    qapi::Error::generic(format!("'{text}' is not a valid char driver name"))
}

fn split_options(text: &str) -> (&str, &str) {
    text.split_once(',').unwrap_or((text, ""))
}

/// Adds `server=on,wait=off` and the old lone words `server`, `nowait`.
fn append_options(out: &mut Legacy, options: &str, whole: &str) -> qapi::Result<()> {
    let Value::Map(members) = &mut out.args else { return Ok(()) };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, value),
            None => match option.strip_prefix("no") {
                Some(key) if matches!(key, "wait" | "delay" | "server" | "mux" | "signal") => (
                    if key == "delay" { "nodelay" } else { key },
                    if key == "delay" { "on" } else { "off" },
                ),
                _ => (option, "on"),
            },
        };
        match key {
            "mux" => out.mux = value == "on",
            "server" | "wait" | "nodelay" | "signal" => {
                members.push((key.to_owned(), Value::from(value)));
            }
            _ => {
                return Err(qapi::Error::generic(format!("'{whole}': Invalid parameter '{key}'")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(l: &Legacy) -> Vec<(String, Value)> {
        match &l.args {
            Value::Map(m) => m.clone(),
            _ => Vec::new(),
        }
    }

    fn pair(k: &str, v: &str) -> (String, Value) {
        (k.into(), Value::from(v))
    }

    #[test]
    fn monitor_over_stdio_is_a_mux_without_signals() {
        let l = legacy("mon:stdio").unwrap();
        assert_eq!((l.kind, l.mux, l.monitor), (Some("stdio"), true, true));
        assert_eq!(keys(&l), [pair("signal", "off")]);
    }

    #[test]
    fn sockets_take_new_and_old_options() {
        let l = legacy("unix:/tmp/x,server=on,wait=off").unwrap();
        assert_eq!(keys(&l), [pair("path", "/tmp/x"), pair("server", "on"), pair("wait", "off")]);
        let l = legacy("tcp:localhost:4444,server,nowait").unwrap();
        let want = [
            pair("host", "localhost"),
            pair("port", "4444"),
            pair("server", "on"),
            pair("wait", "off"),
        ];
        assert_eq!(keys(&l), want);
        assert_eq!(keys(&legacy("tcp::9").unwrap()), [pair("host", ""), pair("port", "9")]);
    }

    #[test]
    fn none_file_and_nonsense() {
        assert_eq!(legacy("none").unwrap().kind, None);
        assert_eq!(keys(&legacy("file:a,b").unwrap()), [pair("path", "a,b")]);
        assert!(legacy("bogus").unwrap_err().desc.contains("bogus"));
        assert!(legacy("tcp:9").is_err());
        assert!(legacy("unix:x,frob=1").unwrap_err().desc.contains("frob"));
    }
}
