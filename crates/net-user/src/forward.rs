//! Rules of `hostfwd`: what they say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use qapi::{Error, Result};

/// A rule: ports of the host that lead to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) udp: bool,
    pub(crate) host: SocketAddr,
    /// `None`: the first address of the DHCP server.
    pub(crate) guest: Option<IpAddr>,
    pub(crate) port: u16,
}

/// The host's side of a rule, for removing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostSide {
    pub(crate) udp: bool,
    pub(crate) host: SocketAddr,
}

fn address(text: &str) -> Option<IpAddr> {
    if text.is_empty() {
        return Some(Ipv4Addr::UNSPECIFIED.into());
    }
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn protocol(text: &str) -> Option<bool> {
    match text {
        "tcp" | "" => Some(false),
        "udp" => Some(true),
        _ => None,
    }
}

impl Rule {
    /// Reads `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`.
    pub(crate) fn parse(text: &str) -> Result<Rule> {
        let bad =
            |why: &str| Error::generic(format!("Invalid host forwarding rule '{text}' ({why})"));
        let (kind, rest) = text.split_once(':').ok_or_else(|| bad("No : separators"))?;
        let udp = protocol(kind).ok_or_else(|| bad("Bad protocol name"))?;
        let (host, rest) = rest.split_once(':').ok_or_else(|| bad("Missing : separator"))?;
        let host = address(host).ok_or_else(|| bad("Bad host address"))?;
        let (host_port, rest) =
            rest.split_once('-').ok_or_else(|| bad("Bad host port separator"))?;
        let host_port = host_port.parse().map_err(|_| bad("Bad host port"))?;
        let (guest, port) = rest.split_once(':').ok_or_else(|| bad("Missing guest address"))?;
        let guest = match guest {
            "" => None,
            text => Some(address(text).ok_or_else(|| bad("Bad guest address"))?),
        };
        let port: Option<u16> = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| bad("Bad guest port"))?;
        Ok(Rule { udp, host: SocketAddr::new(host, host_port), guest, port })
    }
}

impl HostSide {
    /// Reads `[tcp|udp]:[hostaddr]:hostport`.
    pub(crate) fn parse(text: &str) -> Option<HostSide> {
        let (kind, rest) = text.split_once(':')?;
        let (host, port) = rest.split_once(':')?;
        let host = SocketAddr::new(address(host)?, port.parse().ok()?);
        Some(HostSide { udp: protocol(kind)?, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_broken_ones_named() {
        let rule = Rule::parse("tcp::5555-:22").unwrap();
        assert_eq!(rule.host, "0.0.0.0:5555".parse().unwrap());
        assert_eq!((rule.udp, rule.guest, rule.port), (false, None, 22));
        let rule = Rule::parse("udp:127.0.0.1:1-10.0.2.16:2").unwrap();
        assert_eq!((rule.udp, rule.guest), (true, Some("10.0.2.16".parse().unwrap())));
        for (text, why) in [
            ("foo", "No : separators"),
            ("xcp::1-:22", "Bad protocol name"),
            ("tcp:foo:1-:22", "Bad host address"),
            ("tcp::1:22", "Bad host port separator"),
            ("tcp::x-:22", "Bad host port"),
            ("tcp::99999-:22", "Bad host port"),
            ("tcp::1-22", "Missing guest address"),
            ("tcp::1-x:22", "Bad guest address"),
            ("tcp::1-:0", "Bad guest port"),
        ] {
            let error = Rule::parse(text).unwrap_err().desc;
            assert_eq!(error, format!("Invalid host forwarding rule '{text}' ({why})"));
        }
        assert_eq!(HostSide::parse("tcp::1").unwrap().host.port(), 1);
        assert_eq!(HostSide::parse("foo"), None);
    }
}
