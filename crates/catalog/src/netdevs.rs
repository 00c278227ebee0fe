//! Network back ends.

use net::NetdevClass;

/// All kinds of network back ends.
pub static NETDEVS: &[NetdevClass] =
    &[NetdevClass::of::<net::HubPortArgs>(), NetdevClass::of::<net_user::UserArgs>()];
