//! The host's name servers, for the relay.

use std::net::IpAddr;

/// Where they are written (resolv.conf(5)).
const FILE: &str = "/etc/resolv.conf";
/// Longest file that is looked at.
const MAX: usize = 64 << 10;
/// How long an answer is used, in nanoseconds.
const FRESH: u64 = 2_000_000_000;

/// The name servers, looked up again from time to time.
#[derive(Default)]
pub(crate) struct Resolver {
    servers: Vec<IpAddr>,
    read_at: Option<u64>,
}

impl Resolver {
    /// A name server; if there is one, of the wanted family.
    pub(crate) fn server(&mut self, v6: bool, now: u64) -> Option<IpAddr> {
        if self.read_at.is_none_or(|at| now.saturating_sub(at) > FRESH) {
            self.read_at = Some(now);
            self.servers = parse(&std::fs::read(FILE).unwrap_or_default());
        }
        let fits = self.servers.iter().find(|ip| ip.is_ipv6() == v6);
        fits.or(self.servers.first()).copied()
    }
}

/// The servers of a file, at most three; a scope behind `%` is dropped.
pub(crate) fn parse(text: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(text.get(..text.len().min(MAX)).unwrap_or_default());
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.split('%').next()?.parse().ok()
    });
    words.take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_among_other_lines() {
        let text = b"# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\nnameserver\n\
            nameserver x\nnameserver fe80::1%eth0\n\xff\xfe\n";
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(parse(text), expected);
        assert!(parse(b"").is_empty());
    }
}
