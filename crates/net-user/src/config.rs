//! Arguments of the back end `user`, and what they mean.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use derive::Qapi;
use qapi::{Error, Result};

/// A text in a list.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "String")]
pub struct Text {
    /// The text.
    pub str: String,
}

/// Arguments of `user`.
#[derive(Clone, Debug, Default, Qapi)]
#[qapi(name = "NetdevUserOptions")]
pub struct UserArgs {
    /// Name of the guest that the DHCP server tells.
    pub hostname: Option<String>,
    /// Isolate the guest from the host and the outside.
    pub restrict: Option<bool>,
    /// Use IPv4 (default: on).
    pub ipv4: Option<bool>,
    /// Use IPv6 (default: on).
    pub ipv6: Option<bool>,
    /// Older name of `net`.
    pub ip: Option<String>,
    /// The guest's IPv4 network (default: 10.0.2.0/24).
    pub net: Option<String>,
    /// The guest's view of the host (default: the network's second address).
    pub host: Option<String>,
    /// Directory that is served by TFTP.
    pub tftp: Option<String>,
    /// File that the DHCP server names for booting.
    pub bootfile: Option<String>,
    /// First of 16 addresses that the DHCP server gives (default: the network's 15th).
    pub dhcpstart: Option<String>,
    /// The guest's view of the name server (default: the network's third address).
    pub dns: Option<String>,
    /// Domains that the DHCP server tells.
    pub dnssearch: Option<Vec<Text>>,
    /// Domain of the guest that the DHCP server tells.
    pub domainname: Option<String>,
    /// Prefix of the guest's IPv6 network (default: fec0::).
    pub ipv6_prefix: Option<String>,
    /// Its length (default: 64).
    pub ipv6_prefixlen: Option<i64>,
    /// The guest's IPv6 view of the host (default: the prefix's second address).
    pub ipv6_host: Option<String>,
    /// The guest's IPv6 view of the name server (default: the prefix's third address).
    pub ipv6_dns: Option<String>,
    /// Connections and datagrams to the host that go to the guest.
    pub hostfwd: Option<Vec<Text>>,
    /// Connections of the guest that go to a character back end or a command.
    pub guestfwd: Option<Vec<Text>>,
    /// Name of the TFTP server that the DHCP server tells.
    pub tftp_server_name: Option<String>,
}

/// The IPv4 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct V4 {
    pub(crate) net: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) host: Ipv4Addr,
    pub(crate) dns: Ipv4Addr,
    pub(crate) dhcp_start: Ipv4Addr,
}

impl V4 {
    pub(crate) fn mask(&self) -> Ipv4Addr {
        mask(self.prefix)
    }

    pub(crate) fn contains(&self, ip: Ipv4Addr) -> bool {
        let mask = u32::from(self.mask());
        u32::from(ip) & mask == u32::from(self.net) & mask
    }
}

impl Default for V4 {
    fn default() -> V4 {
        let ip = |last| Ipv4Addr::new(10, 0, 2, last);
        V4 { net: ip(0), prefix: 24, host: ip(2), dns: ip(3), dhcp_start: ip(15) }
    }
}

/// The IPv6 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct V6 {
    pub(crate) prefix: Ipv6Addr,
    pub(crate) len: u8,
    pub(crate) host: Ipv6Addr,
    pub(crate) dns: Ipv6Addr,
}

impl V6 {
    pub(crate) fn contains(&self, ip: Ipv6Addr) -> bool {
        let shift = 128u32.saturating_sub(self.len.into());
        let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
        u128::from(ip) & mask == u128::from(self.prefix) & mask
    }
}

impl Default for V6 {
    fn default() -> V6 {
        let ip = |last| Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, last);
        V6 { prefix: ip(0), len: 64, host: ip(2), dns: ip(3) }
    }
}

/// What the arguments mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) restrict: bool,
    pub(crate) v4: Option<V4>,
    pub(crate) v6: Option<V6>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) dnssearch: Vec<String>,
    pub(crate) tftp: Option<PathBuf>,
    pub(crate) tftp_server_name: Option<String>,
    pub(crate) bootfile: Option<String>,
}

fn mask(prefix: u8) -> Ipv4Addr {
    let shift = 32u32.saturating_sub(prefix.into());
    u32::MAX.checked_shl(shift).unwrap_or(0).into()
}

fn fail<T>(text: &str) -> Result<T> {
    Err(Error::generic(text))
}

/// An address; missing parts of a network are zero, as `10/8` or `192.168.1.0/24`.
fn network(text: &str) -> Result<(Ipv4Addr, u8)> {
    let bad = || Error::generic("Failed to parse netmask");
    let (address, len) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let full = match address.split('.').count() {
        n @ 1..=4 => format!("{address}{}", ".0".repeat(4 - n)),
        _ => address.to_owned(),
    };
    let address: Ipv4Addr = full.parse().map_err(|_| bad())?;
    let prefix = match len {
        // RFC 791's classes, as the peer takes them.
        None => match address.octets() {
            [0..128, ..] => 8,
            [128..192, ..] => 16,
            [192..224, ..] => 24,
            _ => return Err(bad()),
        },
        Some(len) => match len.parse::<u8>() {
            Ok(len) if (4..=32).contains(&len) => len,
            Ok(_) => return fail("Invalid netmask provided (must be in range 4-32)")?,
            Err(_) => {
                let mask: Ipv4Addr = len.parse().map_err(|_| bad())?;
                let bits = u32::from(mask);
                if bits.count_ones() != bits.leading_ones() {
                    return Err(bad());
                }
                u8::try_from(bits.leading_ones()).unwrap_or(32)
            }
        },
    };
    Ok((address, prefix))
}

fn v4(args: &UserArgs) -> Result<V4> {
    let mut v4 = V4::default();
    if let Some(text) = args.net.as_ref().or(args.ip.as_ref()) {
        let (net, prefix) = network(text)?;
        v4.net = (u32::from(net) & u32::from(mask(prefix))).into();
        v4.prefix = prefix;
        let at = |n: u32| Ipv4Addr::from(u32::from(v4.net) | (n & !u32::from(mask(prefix))));
        (v4.host, v4.dns, v4.dhcp_start) = (at(2), at(3), at(15));
    }
    let parse = |text: &Option<String>, default, what: &str| match text {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| Error::generic(format!("Failed to parse {what}"))),
    };
    v4.host = parse(&args.host, v4.host, "host")?;
    if !v4.contains(v4.host) {
        return fail("Host doesn't belong to network");
    }
    v4.dhcp_start = parse(&args.dhcpstart, v4.dhcp_start, "DHCP start address")?;
    if !v4.contains(v4.dhcp_start) {
        return fail("DHCP doesn't belong to network");
    }
    if v4.dhcp_start == v4.host {
        return fail("DHCP start address must be different from host address");
    }
    v4.dns = parse(&args.dns, v4.dns, "DNS")?;
    if !v4.contains(v4.dns) {
        return fail("DNS doesn't belong to network");
    }
    if v4.dns == v4.host {
        return fail("DNS must be different from host");
    }
    Ok(v4)
}

fn v6(args: &UserArgs) -> Result<V6> {
    let mut v6 = V6::default();
    let parse = |text: &Option<String>, default, what: &str| match text {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| Error::generic(format!("Failed to parse {what}"))),
    };
    v6.prefix = parse(&args.ipv6_prefix, v6.prefix, "IPv6 prefix")?;
    v6.len = match args.ipv6_prefixlen.unwrap_or(64) {
        len @ 0..=126 => u8::try_from(len).unwrap_or(64),
        _ => {
            return fail(
                "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)",
            );
        }
    };
    let at = |n: u128| Ipv6Addr::from(u128::from(v6.prefix) | n);
    let (host, dns) = (at(2), at(3));
    v6.host = parse(&args.ipv6_host, host, "IPv6 host")?;
    if !v6.contains(v6.host) {
        return fail("IPv6 Host doesn't belong to network");
    }
    v6.dns = parse(&args.ipv6_dns, dns, "IPv6 DNS")?;
    if !v6.contains(v6.dns) {
        return fail("IPv6 DNS doesn't belong to network");
    }
    Ok(v6)
}

impl Config {
    pub(crate) fn new(args: &UserArgs) -> Result<Config> {
        // One family alone is the one that is asked for.
        let (four, six) = match (args.ipv4, args.ipv6) {
            (Some(true), None) => (true, false),
            (None, Some(true)) => (false, true),
            (four, six) => (four.unwrap_or(true), six.unwrap_or(true)),
        };
        if !four && !six {
            return fail("IPv4 and IPv6 disabled");
        }
        let long = |name: &Option<String>| name.as_ref().is_some_and(|n| n.len() > 255);
        if long(&args.domainname) {
            return fail("'domainname' parameter cannot exceed 255 bytes");
        }
        if long(&args.tftp_server_name) {
            return fail("'tftp-server-name' parameter cannot exceed 255 bytes");
        }
        if long(&args.hostname) {
            return fail("'hostname' parameter cannot exceed 255 bytes");
        }
        let search = args.dnssearch.iter().flatten();
        Ok(Config {
            restrict: args.restrict.unwrap_or(false),
            v4: if four { Some(v4(args)?) } else { None },
            v6: if six { Some(v6(args)?) } else { None },
            hostname: args.hostname.clone(),
            domainname: args.domainname.clone(),
            dnssearch: search.map(|text| text.str.clone()).collect(),
            tftp: args.tftp.as_ref().map(PathBuf::from),
            tftp_server_name: args.tftp_server_name.clone(),
            bootfile: args.bootfile.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut UserArgs)) -> std::result::Result<Config, String> {
        let mut args = UserArgs::default();
        change(&mut args);
        Config::new(&args).map_err(|error| error.desc)
    }

    #[test]
    fn networks_have_defaults_that_move_with_them() {
        assert_eq!(config(|_| {}).unwrap().v4, Some(V4::default()));
        let v4 = config(|a| a.net = Some("192.168.76.0/24".into())).unwrap().v4.unwrap();
        assert_eq!(v4.dhcp_start, Ipv4Addr::new(192, 168, 76, 15));
        assert_eq!(v4.host, Ipv4Addr::new(192, 168, 76, 2));
        let v4 = config(|a| a.net = Some("172.20/255.255.0.0".into())).unwrap().v4.unwrap();
        assert_eq!((v4.prefix, v4.dns), (16, Ipv4Addr::new(172, 20, 0, 3)));
        let v6 = config(|a| a.ipv6_prefix = Some("fd00:1::".into())).unwrap().v6.unwrap();
        assert_eq!(v6.host, "fd00:1::2".parse::<Ipv6Addr>().unwrap());
        let only = config(|a| a.ipv6 = Some(true)).unwrap();
        assert!(only.v4.is_none() && only.v6.is_some());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bad = |change: fn(&mut UserArgs)| config(change).unwrap_err();
        assert_eq!(bad(|a| a.host = Some("10.0.3.2".into())), "Host doesn't belong to network");
        assert_eq!(bad(|a| a.dns = Some("10.0.2.2".into())), "DNS must be different from host");
        assert_eq!(
            bad(|a| (a.ipv4, a.ipv6) = (Some(false), Some(false))),
            "IPv4 and IPv6 disabled"
        );
        assert!(bad(|a| a.net = Some("10.0.2.0/33".into())).contains("4-32"));
        assert!(bad(|a| a.net = Some("10.0.2.0/255.0.255.0".into())).contains("netmask"));
        assert!(bad(|a| a.hostname = Some("h".repeat(256))).contains("255 bytes"));
        assert!(bad(|a| a.ipv6_prefixlen = Some(127)).contains("126"));
    }
}
