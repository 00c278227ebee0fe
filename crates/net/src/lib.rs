//! Networks: what a card and a back end are, and the link between them.
//!
//! A [`Link`] joins one card ([`Nic`]) to one back end ([`Backend`]); filters may
//! stand between them. [`Netdevs`] is the table of links, found by devices as a
//! service. A [`Frame`] carries the work that is left to do with it (checksum,
//! segmentation) in the form of the virtio network header, so that two sides that
//! both know it never do it. Each kind of back end is one file with its arguments.
//! Not here: user-mode networking (crate `net-user`) and the cards (`hw-*`).
//! Sources: QEMU 10.0's manual ("network options") and its observable behaviour;
//! virtio 1.3, section 5.1.6 for the header.

pub mod address;
pub mod announce;
mod dgram;
pub mod filter;
pub mod frame;
pub mod hub;
pub mod link;
pub mod option;
pub mod rss;
pub mod segment;
mod socket;
pub mod stream;
mod table;
mod tap;
pub mod vhost;
mod vhost_user;

pub use dgram::DgramArgs;
pub use filter::{Direction, Filter, Verdict};
pub use frame::{Bytes, Frame, Offload};
pub use hub::{HubPortArgs, Hubs};
pub use link::{Backend, Link, Mac, Nic, NicInfo, RxFilter, Takes, UserNet, mac_text, parse_mac};
pub use socket::SocketArgs;
pub use stream::StreamArgs;
pub use table::{Connected, Context, FindFd, Kind, NetdevClass, Netdevs, Open, Tell, card};
pub use tap::{BridgeArgs, TapArgs};
pub use vhost_user::VhostUserArgs;
