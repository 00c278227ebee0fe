//! Network back ends.

use net::NetdevClass;

/// All kinds of network back ends.
pub static NETDEVS: &[NetdevClass] = &[
    NetdevClass::of::<net::SocketArgs>(),
    NetdevClass::of::<net::StreamArgs>(),
    NetdevClass::of::<net::DgramArgs>(),
    NetdevClass::of::<net::HubPortArgs>(),
    NetdevClass::of::<net::TapArgs>(),
    NetdevClass::of::<net::BridgeArgs>(),
    NetdevClass::of::<net::VhostUserArgs>(),
    NetdevClass::of::<net_user::UserArgs>(),
];
