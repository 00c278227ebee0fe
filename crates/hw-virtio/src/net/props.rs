//! Properties of the network card, and the features they offer.

use derive::Qapi;
use net::link::Datagrams;
use qapi::{Error, Result};
use virtio::Common;

use super::feature as f;

pci::named_property!(
    /// Descriptors of programs for the kernel; there are none.
    FdList, "list"
);

/// Properties of `virtio-net-device`; names and defaults are the peer's.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// ID of a netdev to use as a backend
    pub netdev: Option<String>,
    /// Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56
    pub mac: Option<String>,
    /// Place in the order of boot devices
    pub bootindex: Option<i32>,
    /// Take frames without checksum from the driver
    #[qapi(default = true)]
    pub csum: bool,
    /// Give the driver frames without checksum
    #[qapi(name = "guest_csum", default = true)]
    pub guest_csum: bool,
    /// Legacy: take any segments
    #[qapi(default = true)]
    pub gso: bool,
    /// Give the driver long TCP segments over IPv4
    #[qapi(name = "guest_tso4", default = true)]
    pub guest_tso4: bool,
    /// Give the driver long TCP segments over IPv6
    #[qapi(name = "guest_tso6", default = true)]
    pub guest_tso6: bool,
    /// Give the driver long segments with ECN
    #[qapi(name = "guest_ecn", default = true)]
    pub guest_ecn: bool,
    /// Give the driver long datagrams, where the back end has them
    #[qapi(name = "guest_ufo", default = true)]
    pub guest_ufo: bool,
    /// Give the driver several datagrams at once over IPv4, where the back end has them
    #[qapi(name = "guest_uso4", default = true)]
    pub guest_uso4: bool,
    /// The same over IPv6
    #[qapi(name = "guest_uso6", default = true)]
    pub guest_uso6: bool,
    /// Let the driver say that it has announced itself
    #[qapi(name = "guest_announce", default = true)]
    pub guest_announce: bool,
    /// Take long TCP segments over IPv4
    #[qapi(name = "host_tso4", default = true)]
    pub host_tso4: bool,
    /// Take long TCP segments over IPv6
    #[qapi(name = "host_tso6", default = true)]
    pub host_tso6: bool,
    /// Take long segments with ECN
    #[qapi(name = "host_ecn", default = true)]
    pub host_ecn: bool,
    /// Take long datagrams, where the back end does
    #[qapi(name = "host_ufo", default = true)]
    pub host_ufo: bool,
    /// Take several datagrams at once, where the back end does
    #[qapi(name = "host_uso", default = true)]
    pub host_uso: bool,
    /// Spread a frame over several buffers
    #[qapi(name = "mrg_rxbuf", default = true)]
    pub mrg_rxbuf: bool,
    /// Say whether the link is up
    #[qapi(default = true)]
    pub status: bool,
    /// Have a control queue
    #[qapi(name = "ctrl_vq", default = true)]
    pub ctrl_vq: bool,
    /// Let the driver choose what it gets
    #[qapi(name = "ctrl_rx", default = true)]
    pub ctrl_rx: bool,
    /// Let the driver choose VLANs
    #[qapi(name = "ctrl_vlan", default = true)]
    pub ctrl_vlan: bool,
    /// Let the driver choose in more ways
    #[qapi(name = "ctrl_rx_extra", default = true)]
    pub ctrl_rx_extra: bool,
    /// Let the driver change the address
    #[qapi(name = "ctrl_mac_addr", default = true)]
    pub ctrl_mac_addr: bool,
    /// Let the driver switch its offloads
    #[qapi(name = "ctrl_guest_offloads", default = true)]
    pub ctrl_guest_offloads: bool,
    /// Offer as many queue pairs as the back end has
    #[qapi(default = false)]
    pub mq: bool,
    /// Offer to choose the queue by a hash
    #[qapi(default = false)]
    pub rss: bool,
    /// Offer to report a hash
    #[qapi(default = false)]
    pub hash: bool,
    /// Descriptors of programs that hash; not built
    #[qapi(name = "ebpf-rss-fds", default = "[]")]
    pub ebpf_rss_fds: FdList,
    /// Join segments for the driver; not built
    #[qapi(name = "guest_rsc_ext", default = false)]
    pub guest_rsc_ext: bool,
    /// Time in which segments are joined; without effect
    #[qapi(name = "rsc_interval", default = 300000)]
    pub rsc_interval: u32,
    /// MTU that the driver is told; 0: none
    #[qapi(name = "host_mtu", default = 0)]
    pub host_mtu: u16,
    /// Tell the driver the MTU although the back end has none; without effect
    #[qapi(name = "x-mtu-bypass-backend", default = true)]
    pub x_mtu_bypass_backend: bool,
    /// Speed in Mbit/s that the driver is told; -1: none
    #[qapi(default = -1)]
    pub speed: i32,
    /// `half` or `full`, as the driver is told
    pub duplex: Option<String>,
    /// Entries of receive queues
    #[qapi(name = "rx_queue_size", default = 256)]
    pub rx_queue_size: u16,
    /// Entries of transmit queues
    #[qapi(name = "tx_queue_size", default = 256)]
    pub tx_queue_size: u16,
    /// How frames are gathered: `bh` or `timer`; without effect
    pub tx: Option<String>,
    /// Time of `tx=timer`; without effect
    #[qapi(name = "x-txtimer", default = 150000)]
    pub x_txtimer: u32,
    /// Most frames sent at once; without effect
    #[qapi(name = "x-txburst", default = 256)]
    pub x_txburst: i32,
    /// Stand in for another card; not built
    #[qapi(default = false)]
    pub failover: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

impl Props {
    /// Refuses what makes no sense and what would not be honoured.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |text: String| Err(Error::generic(text));
        let size = self.rx_queue_size;
        if !(256..=1024).contains(&size) || !size.is_power_of_two() {
            return bad(format!(
                "Invalid rx_queue_size (= {size}), must be a power of 2 between 256 and 1024."
            ));
        }
        let size = self.tx_queue_size;
        if size != 256 {
            return bad(format!(
                "Invalid tx_queue_size (= {size}), must be a power of 2 between 256 and 256"
            ));
        }
        if self.speed < -1 {
            return bad("'speed' must be between 0 and INT_MAX".into());
        }
        if self.duplex.as_ref().is_some_and(|d| d != "half" && d != "full") {
            return bad("'duplex' must be 'half' or 'full'".into());
        }
        for (on, name) in [
            (self.guest_rsc_ext, "guest_rsc_ext"),
            (self.failover, "failover"),
            (self.ebpf_rss_fds.0 != "[]", "ebpf-rss-fds"),
        ] {
            if on {
                return bad(format!("'{name}' is not built yet in Tinamou"));
            }
        }
        Ok(())
    }

    /// The features offered with a back end that takes and gives unfinished frames, or not.
    pub(super) fn features(&self, offloads: bool, datagrams: Datagrams, queue_pairs: u16) -> u64 {
        let control = [
            (self.ctrl_rx, f::CTRL_RX),
            (self.ctrl_vlan, f::CTRL_VLAN),
            (self.ctrl_rx_extra, f::CTRL_RX_EXTRA),
            (self.ctrl_mac_addr, f::CTRL_MAC_ADDR),
            (self.guest_announce, f::GUEST_ANNOUNCE),
            (self.mq && queue_pairs > 1, f::MQ),
            (self.ctrl_guest_offloads, f::CTRL_GUEST_OFFLOADS),
            (self.rss, f::RSS),
            (self.hash && offloads, f::HASH_REPORT),
        ];
        let rest = [
            (true, f::MAC),
            (self.status, f::STATUS),
            (self.mrg_rxbuf, f::MRG_RXBUF),
            (self.ctrl_vq, f::CTRL_VQ),
            (self.host_mtu > 0, f::MTU),
            (self.speed >= 0 || self.duplex.is_some(), f::SPEED_DUPLEX),
        ];
        let finish = [
            (self.csum, f::CSUM),
            (self.guest_csum, f::GUEST_CSUM),
            (self.gso, f::GSO),
            (self.guest_tso4, f::GUEST_TSO4),
            (self.guest_tso6, f::GUEST_TSO6),
            (self.guest_ecn, f::GUEST_ECN),
            (self.host_tso4, f::HOST_TSO4),
            (self.host_tso6, f::HOST_TSO6),
            (self.host_ecn, f::HOST_ECN),
            (self.guest_ufo && datagrams.ufo, f::GUEST_UFO),
            (self.host_ufo && datagrams.ufo, f::HOST_UFO),
            (self.guest_uso4 && datagrams.uso, f::GUEST_USO4),
            (self.guest_uso6 && datagrams.uso, f::GUEST_USO6),
            (self.host_uso && datagrams.uso, f::HOST_USO),
        ];
        let control = control.into_iter().filter(|_| self.ctrl_vq);
        let finish = finish.into_iter().filter(|_| offloads);
        let all = rest.into_iter().chain(control).chain(finish);
        all.fold(self.common.features(), |all, (on, bit)| if on { all | bit } else { all })
    }
}
