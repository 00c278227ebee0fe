//! What is saved of a connection, and what becomes of connections when a state is loaded.
//!
//! A guest that goes back in time cannot take back bytes that the host has had, and does not get
//! those again that the host has sent. So a connection goes on when none came or went since the
//! state was saved (what was sent and not acknowledged is in the state); every other one is
//! broken, on both sides at once, instead of hanging until somebody's patience ends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use derive::VmState;

use super::{Conn, Pair, Phase, TO_GUEST, as_seq};
use crate::out::{Out, Wish};
use crate::wire::{self, ACK, RST};

/// An IP address as a number; IPv4 is mapped (RFC 4291, 2.5.5.2).
pub(crate) fn ip_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The address of a number.
pub(crate) fn number_ip(number: u128) -> IpAddr {
    Ipv6Addr::from(number).to_canonical()
}

/// A connection.
#[derive(Clone, VmState)]
#[vmstate(name = "user-net-tcp", version = 1)]
pub(crate) struct ConnState {
    pub(crate) number: u64,
    guest_ip: u128,
    guest_port: u16,
    remote_ip: u128,
    remote_port: u16,
    phase: u8,
    rcv_next: u32,
    rcv_edge: u32,
    snd_una: u32,
    snd_next: u32,
    snd_max: u32,
    snd_window: u32,
    scale: Option<u8>,
    mss: u16,
    /// Sent or not, and not acknowledged.
    #[vmstate(max = 1_048_576)]
    to_guest: Vec<u8>,
    /// Bytes that came from the host.
    pulled: u64,
    host_eof: bool,
    fin_sent: bool,
    fin_end: Option<u32>,
    guest_fin: bool,
}

fn number(phase: Phase) -> u8 {
    match phase {
        Phase::Connecting => 0,
        Phase::SynReceived => 1,
        Phase::SynSent => 2,
        Phase::Open => 3,
        Phase::Closed => 4,
    }
}

impl ConnState {
    pub(crate) fn pair(&self) -> Pair {
        Pair {
            guest: SocketAddr::new(number_ip(self.guest_ip), self.guest_port),
            remote: SocketAddr::new(number_ip(self.remote_ip), self.remote_port),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase {
            0 => Phase::Connecting,
            1 => Phase::SynReceived,
            2 => Phase::SynSent,
            3 => Phase::Open,
            _ => Phase::Closed,
        }
    }

    /// What the connection's numbers must be to one another.
    pub(crate) fn is_sane(&self) -> bool {
        let flight = self.snd_next.wrapping_sub(self.snd_una);
        let ends = u32::from(self.fin_sent || self.phase < 3);
        self.to_guest.len() <= TO_GUEST
            && flight <= as_seq(self.to_guest.len()).saturating_add(ends).saturating_add(1)
            && self.phase <= 4
            && self.scale.is_none_or(|scale| scale <= 14)
            && (64..=1460).contains(&self.mss)
            && self.pair().guest.is_ipv4() == self.pair().remote.is_ipv4()
    }

    /// Tells the guest that its connection is broken.
    pub(crate) fn refuse(&self, out: &mut Out) {
        if matches!(self.phase(), Phase::Connecting | Phase::Closed) {
            return;
        }
        let pair = self.pair();
        let mut header = [0; 20];
        super::fill(&mut header, pair, (self.snd_next, self.rcv_next), RST | ACK, 0);
        let wish = Wish { checksum: Some(16), ..Wish::default() };
        let ends = (pair.remote.ip(), pair.guest.ip());
        out.packet(ends, wire::TCP, &mut header, [&[], &[]], wish);
    }
}

impl Conn {
    /// The state to save under a number.
    pub(crate) fn state(&self, own: u64) -> ConnState {
        let Pair { guest, remote } = self.pair;
        ConnState {
            number: own,
            guest_ip: ip_number(guest.ip()),
            guest_port: guest.port(),
            remote_ip: ip_number(remote.ip()),
            remote_port: remote.port(),
            phase: number(self.phase),
            rcv_next: self.rcv_next,
            rcv_edge: self.rcv_edge,
            snd_una: self.snd_una,
            snd_next: self.snd_next,
            snd_max: self.snd_max,
            snd_window: as_seq(self.snd_window),
            scale: self.scale,
            mss: u16::try_from(self.mss).unwrap_or(1460),
            to_guest: self.to_guest.parts(0, usize::MAX).concat(),
            pulled: self.pulled,
            host_eof: self.host_eof,
            fin_sent: self.fin_sent,
            fin_end: self.fin_end,
            guest_fin: self.guest_fin,
        }
    }

    /// Goes back to a state; `false`: that cannot be.
    pub(crate) fn restore(&mut self, state: &ConnState, now: u64) -> bool {
        let same = self.pair == state.pair()
            && self.rcv_next == state.rcv_next
            && self.pulled == state.pulled
            && self.guest_fin == state.guest_fin
            && self.host_eof == state.host_eof;
        // A SYN that was answered since is not sent again with what the answer brought.
        let known = number(self.phase) >= state.phase && self.phase != Phase::Closed;
        if !same || !known || self.host.is_none() {
            return false;
        }
        self.phase = state.phase();
        (self.snd_una, self.snd_next) = (state.snd_una, state.snd_next);
        (self.snd_max, self.rcv_edge) = (state.snd_max, state.rcv_edge);
        self.snd_window = super::as_len(state.snd_window);
        (self.scale, self.mss) = (state.scale, state.mss.into());
        (self.fin_sent, self.fin_end) = (state.fin_sent, state.fin_end);
        self.to_guest.consume(usize::MAX);
        self.to_guest.push(&state.to_guest);
        (self.duplicates, self.tries, self.used) = (0, 0, now);
        self.deadline = None;
        if self.snd_next != self.snd_una {
            self.arm(now);
        }
        self.ack_due = self.phase == Phase::Open;
        self.want();
        true
    }

    /// Breaks the host's side.
    pub(crate) fn abort(&mut self) {
        self.phase = Phase::Closed;
        if let Some(host) = self.host.take() {
            let hard = Some(std::time::Duration::ZERO);
            _ = rustix::net::sockopt::set_socket_linger(&*host.stream, hard);
        }
    }
}
