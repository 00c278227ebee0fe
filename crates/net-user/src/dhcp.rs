//! DHCP server (RFC 2131, 2132, 3397): one pool of 16 addresses, by MAC.

use std::net::Ipv4Addr;

use net::Mac;

use crate::config::{Config, V4};
use crate::wire::Fields as _;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// A day.
const LEASE: u32 = 86400;
/// Addresses in the pool.
pub(crate) const POOL: usize = 16;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A request, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    kind: u8,
    transaction: [u8; 4],
    flags: [u8; 2],
    mac: Mac,
    client: Ipv4Addr,
    wanted: Option<Ipv4Addr>,
}

fn parse(data: &[u8]) -> Option<Request> {
    // 2.: BOOTREQUEST over Ethernet.
    if data.at8(0)? != 1 || data.at8(1)? != 1 || data.at8(2)? != 6 || data.array(236)? != MAGIC {
        return None;
    }
    let (mut kind, mut wanted) = (None, None);
    let mut options = data.get(240..)?;
    while let Some(code) = options.at8(0).filter(|code| *code != 255) {
        if code == 0 {
            options = options.get(1..)?;
            continue;
        }
        let len = usize::from(options.at8(1)?);
        let value = options.get(2..2 + len)?;
        match (code, len) {
            (53, 1) => kind = value.at8(0),
            (50, 4) => wanted = value.array::<4>(0).map(Ipv4Addr::from),
            _ => {}
        }
        options = options.get(2 + len..)?;
    }
    Some(Request {
        kind: kind?,
        transaction: data.array(4)?,
        flags: data.array(10)?,
        mac: data.array(28)?,
        client: data.array::<4>(12)?.into(),
        wanted,
    })
}

/// Who has which address.
#[derive(Default)]
pub(crate) struct Dhcp {
    pub(crate) leases: Vec<Mac>,
}

/// An answer: for whom, and the datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) mac: Mac,
    pub(crate) to: Ipv4Addr,
    pub(crate) data: Vec<u8>,
}

impl Dhcp {
    fn address(&mut self, v4: &V4, mac: Mac) -> Option<Ipv4Addr> {
        let at = self.leases.iter().position(|known| *known == mac);
        let at = match at {
            Some(at) => at,
            None if self.leases.len() < POOL => {
                self.leases.push(mac);
                self.leases.len() - 1
            }
            None => return None,
        };
        let first = u32::from(v4.dhcp_start);
        Some(first.wrapping_add(u32::try_from(at).ok()?).into())
    }

    /// Answers a datagram to port 67.
    pub(crate) fn answer(&mut self, config: &Config, v4: &V4, data: &[u8]) -> Option<Answer> {
        let request = parse(data)?;
        let address = self.address(v4, request.mac);
        let kind = match (request.kind, address) {
            (DISCOVER, Some(_)) => OFFER,
            (REQUEST, Some(address)) => {
                let asked = request
                    .wanted
                    .or_else(|| (!request.client.is_unspecified()).then_some(request.client));
                if asked.is_none_or(|asked| asked == address) { ACK } else { NAK }
            }
            (REQUEST, None) => NAK,
            _ => return None,
        };
        let address = address.filter(|_| kind != NAK).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut reply = vec![0; 240];
        let mut put = |at: usize, bytes: &[u8]| crate::out::put(&mut reply, at, bytes);
        put(0, &[2, 1, 6, 0]);
        put(4, &request.transaction);
        put(10, &request.flags);
        put(16, &address.octets());
        put(20, &v4.host.octets());
        put(28, &request.mac);
        if let Some(file) = &config.bootfile {
            put(108, file.as_bytes().get(..file.len().min(127)).unwrap_or_default());
        }
        put(236, &MAGIC);
        option(&mut reply, 53, &[kind]);
        option(&mut reply, 54, &v4.host.octets());
        if kind != NAK {
            options(&mut reply, config, v4);
        }
        reply.push(255);
        // 2131, 2: clients take at least this much.
        reply.resize(reply.len().max(300), 0);
        Some(Answer { mac: request.mac, to: Ipv4Addr::BROADCAST, data: reply })
    }
}

fn option(reply: &mut Vec<u8>, code: u8, value: &[u8]) {
    // 3396: what is longer than 255 bytes comes in several options of one code.
    for piece in value.chunks(255) {
        reply.extend([code, u8::try_from(piece.len()).unwrap_or(255)]);
        reply.extend(piece);
    }
}

fn options(reply: &mut Vec<u8>, config: &Config, v4: &V4) {
    option(reply, 1, &v4.mask().octets());
    if !config.restrict {
        option(reply, 3, &v4.host.octets());
        option(reply, 6, &v4.dns.octets());
    }
    option(reply, 51, &LEASE.to_be_bytes());
    if let Some(name) = &config.hostname {
        option(reply, 12, name.as_bytes());
    }
    if let Some(name) = &config.domainname {
        option(reply, 15, name.as_bytes());
    }
    if let Some(name) = &config.tftp_server_name {
        option(reply, 66, name.as_bytes());
    }
    if config.tftp.is_some() || config.bootfile.is_some() {
        // RFC 5859: the address of the TFTP server.
        option(reply, 150, &v4.host.octets());
    }
    let search = search_list(&config.dnssearch);
    if !search.is_empty() {
        option(reply, 119, &search);
    }
}

/// RFC 1035, 3.1: names as labels; 3397: one behind the other, here without compression.
pub(crate) fn search_list(names: &[String]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        let labels = name.split('.').filter(|label| !label.is_empty());
        if labels.clone().any(|label| label.len() > 63) || name.len() > 253 {
            continue;
        }
        for label in labels {
            list.push(u8::try_from(label.len()).unwrap_or(63));
            list.extend(label.as_bytes());
        }
        list.push(0);
    }
    list
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request(kind: u8, last: u8, wanted: Option<[u8; 4]>) -> Vec<u8> {
        let mut data = vec![0; 240];
        data[..3].copy_from_slice(&[1, 1, 6]);
        data[4..8].copy_from_slice(&[1, 2, 3, 4]);
        data[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, last]);
        data[236..].copy_from_slice(&MAGIC);
        data.extend([53, 1, kind]);
        if let Some(ip) = wanted {
            data.extend([50, 4]);
            data.extend(ip);
        }
        data.push(255);
        data
    }

    #[test]
    fn an_address_is_offered_kept_and_others_refused() {
        let config = Config::default();
        let v4 = V4::default();
        let mut dhcp = Dhcp::default();
        let offer = dhcp.answer(&config, &v4, &request(DISCOVER, 0x56, None)).unwrap();
        assert_eq!(&offer.data[16..20], &[10, 0, 2, 15]);
        assert_eq!(&offer.data[240..243], &[53, 1, OFFER]);
        let ack = dhcp.answer(&config, &v4, &request(REQUEST, 0x56, Some([10, 0, 2, 15]))).unwrap();
        assert_eq!(ack.data[242], ACK);
        let nak = dhcp.answer(&config, &v4, &request(REQUEST, 0x56, Some([10, 0, 2, 9]))).unwrap();
        assert_eq!(nak.data[242], NAK);
        let second = dhcp.answer(&config, &v4, &request(DISCOVER, 0x57, None)).unwrap();
        assert_eq!(second.data[19], 16);
        for last in 0..40 {
            _ = dhcp.answer(&config, &v4, &request(DISCOVER, last, None));
        }
        assert_eq!(dhcp.leases.len(), POOL);
        assert_eq!(dhcp.answer(&config, &v4, &request(DISCOVER, 99, None)), None);
    }

    #[test]
    fn broken_requests_have_no_answer() {
        let good = request(REQUEST, 0x56, Some([10, 0, 2, 15]));
        for n in 0..good.len() - 1 {
            assert!(parse(&good[..n]).is_none_or(|r| r.wanted.is_none()), "{n}");
        }
        let mut long = request(DISCOVER, 1, None);
        long.pop();
        long.extend([60, 200, 1]);
        assert_eq!(parse(&long), None);
    }

    #[test]
    fn search_lists_are_labels() {
        assert_eq!(search_list(&["a.bc".into()]), [1, b'a', 2, b'b', b'c', 0]);
        assert!(search_list(&["x".repeat(64)]).is_empty());
        let names: Vec<String> = (0..100).map(|n| format!("n{n}.example.org")).collect();
        let mut reply = Vec::new();
        option(&mut reply, 119, &search_list(&names));
        assert_eq!((reply[0], reply[1], reply[257], reply[258]), (119, 255, 119, 255));
    }
}
