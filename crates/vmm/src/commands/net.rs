//! Commands about networks.

use std::sync::Arc;

use ::net::announce::Announcement;
use ::net::{Link, Netdevs, Nic, RxFilter, mac_text};
use derive::Qapi;
use qapi::{Error, Result, Source, Value};

use super::QmpCommand;
use crate::Vm;

fn netdevs(vm: &Vm) -> Result<Arc<Netdevs>> {
    let missing = || Error::generic("there are no networks");
    vm.services.find::<Arc<Netdevs>>().ok_or_else(missing)
}

/// A card with its name, its model and its link.
pub struct Card {
    /// Its id, or its model and a number.
    pub name: String,
    /// Its model.
    pub model: &'static str,
    /// The card.
    pub nic: Arc<dyn Nic>,
    /// Its link.
    pub link: Option<Arc<Link>>,
}

/// All cards, in order of creation.
pub fn cards(vm: &Vm) -> Vec<Card> {
    let (Some(machine), Ok(table)) = (vm.machine(), netdevs(vm)) else { return Vec::new() };
    let nics = table.nics();
    let mut numbers: Vec<(&str, u32)> = Vec::new();
    let mut cards = Vec::new();
    for record in machine.devices.all() {
        let Some(nic) = record.ability::<Arc<dyn Nic>>() else { continue };
        let model = record.class.name;
        let name = match nic.info().name {
            Some(name) => name,
            None => match numbers.iter_mut().find(|(known, _)| *known == model) {
                Some((_, number)) => {
                    *number += 1;
                    format!("{model}.{number}")
                }
                None => {
                    numbers.push((model, 0));
                    format!("{model}.0")
                }
            },
        };
        let link = nics.iter().find(|(known, _)| Arc::ptr_eq(known, &nic));
        let link = link.and_then(|(_, link)| link.clone());
        cards.push(Card { name, model, nic, link });
    }
    cards
}

/// Add a network back end.
#[derive(Qapi)]
pub(super) struct NetdevAdd {
    /// Its kind.
    r#type: String,
    /// Its id.
    id: String,
    #[qapi(rest)]
    props: Value,
}

impl QmpCommand for NetdevAdd {
    const NAME: &'static str = "netdev_add";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        if !qapi::keyval::is_identifier(&self.id) {
            return Err(Error::not_an_identifier());
        }
        netdevs(vm)?.add(&self.id, &self.r#type, self.props, Source::Json)
    }
}

/// Remove a network back end.
#[derive(Qapi)]
pub(super) struct NetdevDel {
    /// Its id.
    id: String,
}

impl QmpCommand for NetdevDel {
    const NAME: &'static str = "netdev_del";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        netdevs(vm)?.remove(&self.id)
    }
}

/// Take the link of a card or back end up or down.
#[derive(Qapi)]
pub(super) struct SetLink {
    /// Name of the card or id of the back end.
    name: String,
    /// Whether it is up.
    up: bool,
}

impl QmpCommand for SetLink {
    const NAME: &'static str = "set_link";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        if let Some(link) = netdevs(vm)?.find(&self.name) {
            link.set_up(self.up);
            return Ok(());
        }
        let card = cards(vm).into_iter().find(|card| card.name == self.name);
        let card = card.ok_or_else(|| Error::device_not_found(&self.name))?;
        card.nic.set_link(self.up);
        Ok(())
    }
}

/// How frames of a kind are let through.
#[derive(Qapi)]
pub(super) enum RxState {
    /// As the tables say.
    Normal,
    /// Not at all.
    None,
    /// All of them.
    All,
}

/// What a card lets through.
#[derive(Qapi)]
pub(super) struct RxFilterInfo {
    /// Name of the card.
    name: String,
    /// Everything is let through.
    promiscuous: bool,
    /// Multicast frames.
    multicast: RxState,
    /// Unicast frames.
    unicast: RxState,
    /// Frames of VLANs.
    vlan: RxState,
    /// Whether broadcasts are let through.
    broadcast_allowed: bool,
    /// Whether there were more multicast addresses than fit.
    multicast_overflow: bool,
    /// Whether there were more unicast addresses than fit.
    unicast_overflow: bool,
    /// The card's address.
    main_mac: String,
    /// VLANs that are let through.
    vlan_table: Vec<i64>,
    /// Unicast addresses.
    unicast_table: Vec<String>,
    /// Multicast addresses.
    multicast_table: Vec<String>,
}

fn rx_state(word: &str) -> RxState {
    match word {
        "none" => RxState::None,
        "all" => RxState::All,
        _ => RxState::Normal,
    }
}

fn rx_filter_info(name: String, filter: RxFilter) -> RxFilterInfo {
    let texts = |macs: Vec<::net::Mac>| macs.into_iter().map(mac_text).collect();
    RxFilterInfo {
        name,
        promiscuous: filter.promiscuous,
        multicast: rx_state(filter.multicast),
        unicast: rx_state(filter.unicast),
        vlan: rx_state(filter.vlan),
        broadcast_allowed: filter.broadcast_allowed,
        multicast_overflow: filter.multicast_overflow,
        unicast_overflow: filter.unicast_overflow,
        main_mac: mac_text(filter.main_mac),
        vlan_table: filter.vlan_table,
        unicast_table: texts(filter.unicast_table),
        multicast_table: texts(filter.multicast_table),
    }
}

/// Tell what cards let through.
#[derive(Qapi)]
pub(super) struct QueryRxFilter {
    /// One card only.
    name: Option<String>,
}

impl QmpCommand for QueryRxFilter {
    const NAME: &'static str = "query-rx-filter";
    type Returns = Vec<RxFilterInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<RxFilterInfo>> {
        let mut found = Vec::new();
        for card in cards(vm) {
            if self.name.as_ref().is_some_and(|name| *name != card.name) {
                continue;
            }
            match card.nic.rx_filter() {
                Some(filter) => found.push(rx_filter_info(card.name, filter)),
                None if self.name.is_some() => {
                    let text =
                        format!("net client({}) doesn't support rx-filter querying", card.name);
                    return Err(Error::generic(text));
                }
                None => {}
            }
        }
        match self.name {
            Some(name) if found.is_empty() => {
                Err(Error::generic(format!("invalid net client name: {name}")))
            }
            _ => Ok(found),
        }
    }
}

/// Announce cards to switches and neighbours.
#[derive(Qapi)]
pub(super) struct AnnounceSelf {
    /// Milliseconds before the second announcement.
    initial: i64,
    /// Most milliseconds between announcements.
    max: i64,
    /// How many there are.
    rounds: i64,
    /// How much the time between them grows, in milliseconds.
    step: i64,
    /// Names of the cards; all, if absent.
    interfaces: Option<Vec<String>>,
    /// A name for this announcement.
    id: Option<String>,
}

impl QmpCommand for AnnounceSelf {
    const NAME: &'static str = "announce-self";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let checked = |name: &str, value: i64, range: std::ops::RangeInclusive<i64>| {
            let text = || format!("a value between {} and {}", range.start(), range.end());
            match range.contains(&value) {
                true => Ok(u64::try_from(value).unwrap_or(0)),
                false => Err(Error::expects(name, &text())),
            }
        };
        _ = self.id;
        let what = Announcement {
            initial: checked("initial", self.initial, 1..=100_000)?,
            max: checked("max", self.max, 1..=100_000)?,
            rounds: checked("rounds", self.rounds, 1..=1000)?,
            step: checked("step", self.step, 0..=10_000)?,
            cards: self.interfaces.unwrap_or_default(),
        };
        ::net::announce::announce(&netdevs(vm)?, what);
        Ok(())
    }
}

/// Data of `NIC_RX_FILTER_CHANGED`.
#[derive(Qapi)]
pub(crate) struct RxFilterChanged {
    /// Name of the card, if it has one.
    name: Option<String>,
    /// Its path.
    path: String,
}

/// Data of `NETDEV_STREAM_CONNECTED`.
#[derive(Qapi)]
pub(crate) struct StreamConnected {
    /// Id of the back end.
    netdev_id: String,
    /// Where the peer is.
    addr: ::net::address::SocketAddress,
}

/// Data of `NETDEV_STREAM_DISCONNECTED`.
#[derive(Qapi)]
pub(crate) struct StreamDisconnected {
    /// Id of the back end.
    netdev_id: String,
}
