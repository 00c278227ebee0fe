//! What the network says of datagrams that were sent (IP_RECVERR of ip(7), IPV6_RECVERR of ipv6(7)).
#![expect(unsafe_code, reason = "the error queue of a socket")]
// UNSAFE: setsockopt(2) and recvmsg(2) get pointers to memory that lives as long as the call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A message of the network about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramError {
    /// Where the datagram was to go.
    pub to: SocketAddr,
    /// Who says so.
    pub from: Option<IpAddr>,
    /// Type of ICMP or ICMPv6, after the family of `to`.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The longest packet that would have passed, if that is the reason.
    pub mtu: u32,
    /// Bytes of the datagram that came back.
    pub len: usize,
}

/// Lets a socket keep messages of the network for [`datagram_error`].
///
/// # Errors
/// As of setsockopt(2).
pub fn keep_datagram_errors(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    // SAFETY: the option is an integer, which lives for the call.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const on).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads a socket address as the kernel writes it (sockaddr_in, sockaddr_in6).
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(u16::from_ne_bytes(at(bytes, 0)?));
    let port = u16::from_be_bytes(at(bytes, 2)?);
    let ip: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(at::<4>(bytes, 4)?).into(),
        libc::AF_INET6 => Ipv6Addr::from(at::<16>(bytes, 8)?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Finds the error among the control messages.
fn parse(to: SocketAddr, mut control: &[u8], len: usize) -> Option<DatagramError> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    while let Some(size) = at(control, 0).map(usize::from_ne_bytes) {
        let body = control.get(HEAD..size)?;
        let kind =
            (at(control, 8).map(i32::from_ne_bytes)?, at(control, 12).map(i32::from_ne_bytes)?);
        let wanted =
            [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
        // sock_extended_err: number, origin, type, code, info; then who says so.
        if let (true, Some([origin, kind, code, _])) = (wanted.contains(&kind), at::<4>(body, 4)) {
            if !matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6) {
                return None;
            }
            let mtu = u32::from_ne_bytes(at(body, 8)?);
            let from = body.get(16..).and_then(address).map(|a| a.ip());
            return Some(DatagramError { to, from, kind, code, mtu, len });
        }
        control = control.get(size.next_multiple_of(8)..)?;
    }
    None
}

/// Takes the next message of the network; what came back of the datagram goes into `data`. `None`
/// when it is about this host only.
///
/// # Errors
/// `WouldBlock`: there is none.
pub fn datagram_error(fd: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<Option<DatagramError>> {
    let (mut name, mut control) = ([0u8; 128], [0u64; 64]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all of its fields may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: name, control and data live for the call, and their lengths are told.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let control = bytes.get(..message.msg_controllen).unwrap_or_default();
    Ok(address(&name).and_then(|to| parse(to, control, len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_closed_port_is_told_of() {
        for (local, v6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let Ok(closed) = UdpSocket::bind(local) else { continue };
            let to = closed.local_addr().unwrap();
            drop(closed);
            let socket = UdpSocket::bind(local).unwrap();
            keep_datagram_errors(socket.as_fd(), v6).unwrap();
            socket.send_to(b"anybody?", to).unwrap();
            let mut data = [0; 64];
            let error = datagram_error(socket.as_fd(), &mut data).unwrap().unwrap();
            let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
            assert_eq!((error.to, error.kind, error.code), (to, kind, code));
            assert_eq!(error.from, Some(to.ip()));
            assert_eq!(&data[..error.len], b"anybody?");
            let none = datagram_error(socket.as_fd(), &mut data).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn broken_control_messages_are_nothing() {
        let to = "127.0.0.1:9".parse().unwrap();
        let good =
            [32u64.to_ne_bytes(), [0, 0, 0, 0, 11, 0, 0, 0], [111, 0, 0, 0, 2, 3, 3, 0], [0; 8]];
        let good = good.concat();
        assert_eq!(parse(to, &good, 0).map(|e| (e.kind, e.code, e.from)), Some((3, 3, None)));
        for n in 0..24 {
            assert_eq!(parse(to, &good[..n], 0), None);
        }
        for size in [0u64, 1, 15, 33, u64::MAX] {
            let wild = [&size.to_ne_bytes(), &good[8..]].concat();
            assert_eq!(parse(to, &wild, 0), None);
        }
    }
}
