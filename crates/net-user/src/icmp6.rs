//! ICMPv6: echo (RFC 4443), neighbours (RFC 4861), router advertisements with a prefix for
//! addresses (RFC 4862) and the name server (RFC 8106).

use std::net::{IpAddr, Ipv6Addr};

use net::Mac;

use crate::config::{Config, V6};
use crate::icmp::Echo;
use crate::map::LINK_LOCAL;
use crate::out::{Out, Wish, mac_of, put};
use crate::wire::{self, Fields as _};

pub(crate) const UNREACHABLE: u8 = 1;
pub(crate) const EXCEEDED: u8 = 3;
pub(crate) const ECHO: u8 = 128;
pub(crate) const ECHO_REPLY: u8 = 129;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn send(out: &mut Out, from: Ipv6Addr, to: Ipv6Addr, message: &mut [u8], data: &[u8]) {
    let wish = Wish { checksum: Some(2), ..Wish::default() };
    out.packet((from.into(), to.into()), wire::ICMP6, message, [data, &[]], wish);
}

/// Answers an echo question as somebody of the outside.
pub(crate) fn echo_reply(out: &mut Out, (from, to): (Ipv6Addr, Ipv6Addr), echo: &Echo<'_>) {
    let mut header = [ECHO_REPLY, 0, 0, 0, 0, 0, 0, 0];
    put(&mut header, 4, &echo.id.to_be_bytes());
    put(&mut header, 6, &echo.sequence.to_be_bytes());
    send(out, from, to, &mut header, echo.data);
}

/// Asks for the station with an address.
pub(crate) fn solicit(out: &mut Out, from: Ipv6Addr, target: Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let [h, i, j, k, ..] = [0xff02_u16, 0, 0, 0];
    let group = Ipv6Addr::new(h, i, j, k, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = [0; 32];
    put(&mut message, 0, &[NEIGHBOUR_SOLICITATION]);
    put(&mut message, 8, &target.octets());
    put(&mut message, 24, &[1, 1]);
    put(&mut message, 26, &mac_of(from.into()));
    send(out, from, group, &mut message, &[]);
}

/// Announces router, prefix and name server.
pub(crate) fn advertise(out: &mut Out, config: &Config, v6: &V6) {
    let mut message = [0; 16 + 32 + 8 + 24];
    // Hop limit 64, lifetime 1800 s; as a restricted network's router it is none.
    let lifetime: u16 = if config.restrict { 0 } else { 1800 };
    // The rest of the configuration is DHCPv6's.
    put(&mut message, 0, &[ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0x40]);
    put(&mut message, 6, &lifetime.to_be_bytes());
    // 4861, 4.6.2: on link, for addresses; a day and four hours.
    put(&mut message, 16, &[3, 4, v6.len, 0xc0]);
    put(&mut message, 20, &86400_u32.to_be_bytes());
    put(&mut message, 24, &14400_u32.to_be_bytes());
    put(&mut message, 32, &v6.prefix.octets());
    put(&mut message, 48, &[1, 1]);
    put(&mut message, 50, &mac_of(LINK_LOCAL.into()));
    put(&mut message, 56, &[25, 3, 0, 0]);
    put(&mut message, 60, &1800_u32.to_be_bytes());
    put(&mut message, 64, &v6.dns.octets());
    send(out, LINK_LOCAL, ALL_NODES, &mut message, &[]);
}

/// Answers a message of the guest.
pub(crate) fn input(
    out: &mut Out,
    config: &Config,
    (mac, from, to): (Mac, Ipv6Addr, Ipv6Addr),
    message: &[u8],
) -> Option<()> {
    let v6 = config.v6.as_ref()?;
    match message.at8(0)? {
        ECHO => {
            let own = config.is_host(IpAddr::V6(to)) || to == v6.dns;
            if own {
                let mut header = message.array::<8>(0)?;
                put(&mut header, 0, &[ECHO_REPLY]);
                send(out, to, from, &mut header, message.get(8..)?);
            }
        }
        ROUTER_SOLICITATION => advertise(out, config, v6),
        NEIGHBOUR_SOLICITATION => {
            let target: Ipv6Addr = message.array::<16>(8)?.into();
            let own = target == v6.host || target == v6.dns || target == LINK_LOCAL;
            if !own || from.is_unspecified() {
                return None;
            }
            out.learn(from.into(), mac);
            let mut reply = [0; 32];
            // Router, solicited, override.
            put(&mut reply, 0, &[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0xe0]);
            put(&mut reply, 8, &target.octets());
            put(&mut reply, 24, &[2, 1]);
            put(&mut reply, 26, &mac_of(target.into()));
            send(out, target, from, &mut reply, &[]);
        }
        NEIGHBOUR_ADVERTISEMENT => out.learn(IpAddr::V6(message.array::<16>(8)?.into()), mac),
        _ => {}
    }
    Some(())
}
