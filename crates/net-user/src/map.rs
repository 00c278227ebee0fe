//! Which addresses of the guest's network stand for which of the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Config;
use crate::resolver::Resolver;

/// Where a packet of the guest goes on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outward {
    pub(crate) to: SocketAddr,
    /// It goes to the name server.
    pub(crate) dns: bool,
}

const DNS_PORT: u16 = 53;

impl Config {
    /// Whether an address is the gateway's, which stands for the host.
    pub(crate) fn is_host(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|v4| v4.host == ip),
            IpAddr::V6(ip) => {
                self.v6.is_some_and(|v6| v6.host == ip) || (self.v6.is_some() && ip == LINK_LOCAL)
            }
        }
    }

    /// Whether an address is the name server's.
    pub(crate) fn is_dns(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|v4| v4.dns == ip),
            IpAddr::V6(ip) => self.v6.is_some_and(|v6| v6.dns == ip),
        }
    }

    /// Whether an address is in the guest's network.
    pub(crate) fn is_inside(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|v4| v4.contains(ip)),
            IpAddr::V6(ip) => {
                ip.is_unicast_link_local() || self.v6.is_some_and(|v6| v6.contains(ip))
            }
        }
    }

    /// Where packets to an address go; `None`: nowhere. The host's loopback is reached through
    /// the gateway's address only.
    pub(crate) fn outward(
        &self,
        to: SocketAddr,
        resolver: &mut Resolver,
        now: u64,
    ) -> Option<Outward> {
        if self.restrict {
            return None;
        }
        let ip = to.ip();
        if self.is_host(ip) {
            let own: IpAddr = match ip {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            return Some(Outward { to: SocketAddr::new(own, to.port()), dns: false });
        }
        if self.is_dns(ip) {
            let server = resolver.server(ip.is_ipv6(), now).filter(|_| to.port() == DNS_PORT)?;
            return Some(Outward { to: SocketAddr::new(server, DNS_PORT), dns: true });
        }
        let family = match ip {
            IpAddr::V4(_) => self.v4.is_some(),
            IpAddr::V6(_) => self.v6.is_some(),
        };
        let mapped = match ip {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some() || v6.to_ipv4().is_some(),
        };
        let usable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !mapped;
        let this_host = matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0);
        (family && usable && !this_host && !self.is_inside(ip))
            .then_some(Outward { to, dns: false })
    }

    /// As whom the guest sees a sender of the host; `v4`: the guest's family.
    pub(crate) fn inward(&self, from: SocketAddr, dns: bool, v4: bool) -> Option<SocketAddr> {
        let port = from.port();
        let ip = if v4 {
            let own = self.v4?;
            match from.ip() {
                _ if dns && port == DNS_PORT => own.dns.into(),
                IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => IpAddr::V4(ip),
                _ => own.host.into(),
            }
        } else {
            let own = self.v6?;
            match from.ip() {
                _ if dns && port == DNS_PORT => own.dns.into(),
                IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unspecified() => IpAddr::V6(ip),
                _ => own.host.into(),
            }
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// The gateway's address of the link.
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{UserArgs, V4};

    fn to(config: &Config, text: &str) -> Option<String> {
        let mut resolver = Resolver::default();
        let found = config.outward(text.parse().unwrap(), &mut resolver, 0);
        found.filter(|o| !o.dns).map(|o| o.to.to_string())
    }

    #[test]
    fn loopback_is_reached_through_the_gateway_only() {
        let config = Config::new(&UserArgs::default()).unwrap();
        assert_eq!(to(&config, "10.0.2.2:80").unwrap(), "127.0.0.1:80");
        assert_eq!(to(&config, "[fec0::2]:80").unwrap(), "[::1]:80");
        assert_eq!(to(&config, "192.0.2.1:80").unwrap(), "192.0.2.1:80");
        for refused in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "10.0.2.3:80",
            "10.0.2.99:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::7f00:1]:80",
            "[fe80::9]:80",
            "[fec0::99]:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(to(&config, refused), None, "{refused}");
        }
    }

    #[test]
    fn a_restricted_guest_reaches_nothing() {
        let config = Config { restrict: true, v4: Some(V4::default()), ..Config::default() };
        for target in ["10.0.2.2:80", "10.0.2.3:53", "192.0.2.1:80"] {
            let mut resolver = Resolver::default();
            assert_eq!(config.outward(target.parse().unwrap(), &mut resolver, 0), None);
        }
    }

    #[test]
    fn senders_of_the_loopback_look_like_the_gateway() {
        let config = Config::new(&UserArgs::default()).unwrap();
        let seen = |from: &str, dns| config.inward(from.parse().unwrap(), dns, true).unwrap();
        assert_eq!(seen("127.0.0.1:9", false), "10.0.2.2:9".parse().unwrap());
        assert_eq!(seen("192.0.2.1:53", true), "10.0.2.3:53".parse().unwrap());
        assert_eq!(seen("192.0.2.1:53", false), "192.0.2.1:53".parse().unwrap());
    }
}
