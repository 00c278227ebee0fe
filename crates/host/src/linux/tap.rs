//! Tap devices of Linux (tun(4), Documentation/networking/tuntap.rst): opening, and the header
//! in front of each frame.
#![expect(unsafe_code, reason = "ioctl(2)")]
// UNSAFE: the kernel reads and writes structures of the sizes that the calls have.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Bytes of the header in front of each frame.
pub const TAP_HEADER: usize = 12;

/// `struct ifreq` (netdevice(7)): a name, and the flags among other members.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

fn ioctl<T>(fd: impl AsFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is of the type that `request` takes, see the callers.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a tap device, by name or with one that the system chooses; gives its name, too. With
/// `header` each frame has one in front, where the system can do that; with `several` it is one queue
/// of a device that may have more.
///
/// # Errors
/// What the system says: there is no driver, or no permission.
pub fn open_tap(
    name: Option<&str>,
    header: bool,
    several: bool,
) -> io::Result<(OwnedFd, String, bool)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut features: libc::c_uint = 0;
    ioctl(&fd, libc::TUNGETFEATURES, &mut features)?;
    let can = features & libc::c_uint::try_from(libc::IFF_VNET_HDR).unwrap_or(0) != 0;
    let header = header && can;
    let mut wanted = libc::IFF_TAP | libc::IFF_NO_PI | if header { libc::IFF_VNET_HDR } else { 0 };
    wanted |= if several { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: libc::c_short::from_ne_bytes(
            u16::try_from(wanted & 0xffff).unwrap_or(0).to_ne_bytes(),
        ),
        rest: [0; 22],
    };
    let text = name.unwrap_or("tap%d").as_bytes();
    if text.len() >= request.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.name.iter_mut().zip(text) {
        *to = *from;
    }
    ioctl(&fd, libc::TUNSETIFF, &mut request)?;
    if header {
        set_header(&fd)?;
    }
    let end = request.name.iter().position(|byte| *byte == 0).unwrap_or(request.name.len());
    let name = String::from_utf8_lossy(request.name.get(..end).unwrap_or_default()).into_owned();
    Ok((fd, name, header))
}

fn set_header(fd: impl AsFd) -> io::Result<()> {
    let mut size = libc::c_int::try_from(TAP_HEADER).unwrap_or(12);
    ioctl(fd, libc::TUNSETVNETHDRSZ, &mut size)
}

/// Name of an open tap device, and whether frames have a header; the header gets its length.
///
/// # Errors
/// It is no tap device.
pub fn tap_name(fd: impl AsFd) -> io::Result<(String, bool)> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    ioctl(&fd, libc::TUNGETIFF, &mut request)?;
    let header = libc::c_int::from(request.flags) & libc::IFF_VNET_HDR != 0;
    if header {
        set_header(&fd)?;
    }
    let end = request.name.iter().position(|byte| *byte == 0).unwrap_or(request.name.len());
    let name = String::from_utf8_lossy(request.name.get(..end).unwrap_or_default()).into_owned();
    Ok((name, header))
}

/// What the reader of a tap device takes over: checksums, TCP over IPv4 and IPv6, ECN, long
/// datagrams, several datagrams at once over IPv4 and IPv6.
///
/// # Errors
/// What the system says.
pub fn set_tap_offloads(fd: impl AsFd, takes: [bool; 7]) -> io::Result<()> {
    let bits = [
        libc::TUN_F_CSUM,
        libc::TUN_F_TSO4,
        libc::TUN_F_TSO6,
        libc::TUN_F_TSO_ECN,
        libc::TUN_F_UFO,
        libc::TUN_F_USO4,
        libc::TUN_F_USO6,
    ];
    let chosen = bits.into_iter().zip(takes).filter(|(_, on)| *on);
    let flags = chosen.fold(0, |all, (bit, _)| all | bit);
    // SAFETY: this request takes its argument by value.
    let result = unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Most bytes that wait in a tap device.
///
/// # Errors
/// What the system says.
pub fn set_tap_buffer(fd: impl AsFd, bytes: u64) -> io::Result<()> {
    let mut size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    ioctl(fd, libc::TUNSETSNDBUF, &mut size)
}
