//! `-netdev`, `-nic` and `-net`, and the card that a machine has without being asked.

use std::sync::{Arc, Weak};

use device::Bus;
use evloop::Clock;
use net::{Context, Hubs, Netdevs};
use qapi::{Error, Source, Value};
use vmm::Vm;

use crate::fail::{self, At as _, Step, Stop};
use crate::settings::{Placed, Settings};

const CARD: &str = "virtio-net-pci";
/// Where back ends and cards of `-net` meet.
const HUB: &str = "0";

/// A card that `-nic` or `-net nic` asks for.
#[derive(Debug, Default)]
struct Card {
    place: String,
    model: Option<String>,
    mac: Option<String>,
    name: Option<String>,
    addr: Option<String>,
    netdev: String,
}

/// What was asked for, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Place, kind, id, arguments.
    netdevs: Vec<(String, String, String, Value, Source)>,
    cards: Vec<Card>,
    /// Cards and back ends of `-net`, by their hub ports.
    hub: Hub,
    next: u32,
}

#[derive(Debug, Default)]
struct Hub {
    cards: Vec<Card>,
    backends: Vec<String>,
}

/// Makes the table of networks.
pub(crate) fn table(vm: &Arc<Vm>) -> Arc<Netdevs> {
    let clock = Clock::host();
    vm.handle.serve_clock(&clock);
    let hubs = Arc::new(Hubs::default());
    let (fds, weak) = (vm.fds.clone(), Arc::downgrade(vm));
    let context = Context {
        handle: vm.handle.clone(),
        clock,
        fds: Some(Arc::new(move |name| fds.take(name))),
        chardevs: vm.chardevs.clone(),
        hubs: hubs.clone(),
        tell: Arc::new(move |name, data| {
            if let Some(vm) = weak.upgrade() {
                vm.emit(name, Some(data));
            }
        }),
    };
    let table = Arc::new(Netdevs::new(catalog::NETDEVS, context));
    let weak: Weak<Netdevs> = Arc::downgrade(&table);
    hubs.set_find(move |id| weak.upgrade()?.find(id));
    vm.services.add(table.clone());
    table
}

fn take(value: &mut Value, name: &str, place: &str) -> Step<Option<String>> {
    net::option::word(value, name).at(place)
}

impl Plan {
    /// Reads the options.
    pub(crate) fn of(settings: &Settings) -> Step<Plan> {
        let mut plan = Plan::default();
        for given in &settings.netdevs {
            plan.netdev(given)?;
        }
        for given in &settings.nics {
            plan.nic(given)?;
        }
        for given in &settings.nets {
            plan.net(given)?;
        }
        let none = settings.netdevs.is_empty() && settings.nics.is_empty();
        if none && settings.nets.is_empty() && !settings.nodefaults {
            let id = plan.made_up();
            let user = ("-nic user".to_owned(), "user".to_owned(), id.clone());
            plan.netdevs.push((user.0, user.1, user.2, Value::empty(), Source::KeyVal));
            plan.cards.push(Card { place: String::new(), netdev: id, ..Card::default() });
        }
        plan.join_hub();
        Ok(plan)
    }

    fn made_up(&mut self) -> String {
        self.next += 1;
        format!("#net{:03}", self.next - 1)
    }

    fn netdev(&mut self, given: &Placed) -> Step<()> {
        let place = given.place.as_str();
        let json = given.value.starts_with('{');
        let mut value = net::option::parse(&given.value).at(place)?;
        let id = take(&mut value, "id", place)?.ok_or_else(|| Error::missing("id")).at(place)?;
        let kind = take(&mut value, "type", place)?;
        let kind = kind.ok_or_else(|| Error::missing("type")).at(place)?;
        if !qapi::keyval::is_identifier(&id) {
            return Err(Error::not_an_identifier()).at(place);
        }
        let source = if json { Source::Json } else { Source::KeyVal };
        self.push(place, kind, id, value, source)
    }

    fn push(
        &mut self,
        place: &str,
        kind: String,
        id: String,
        value: Value,
        source: Source,
    ) -> Step<()> {
        if self.netdevs.iter().any(|(_, _, known, ..)| *known == id) {
            return Err(Error::duplicate_id(&id, "netdev")).at(place);
        }
        let class = catalog::NETDEVS.iter().find(|class| class.name == kind);
        if let (Some(class), Source::KeyVal) = (class, source) {
            for (name, _) in value.as_map().unwrap_or(&[]) {
                if !(class.args)().has_member(name) {
                    return Err(Error::invalid_parameter(name)).at(place);
                }
            }
        }
        self.netdevs.push((place.to_owned(), kind, id, value, source));
        Ok(())
    }

    /// The words about a card among those of a back end.
    fn card(value: &mut Value, place: &str) -> Step<Card> {
        let mac = take(value, "mac", place)?;
        Ok(Card {
            place: place.to_owned(),
            model: take(value, "model", place)?,
            mac: take(value, "macaddr", place)?.or(mac),
            name: None,
            addr: take(value, "addr", place)?,
            netdev: String::new(),
        })
    }

    fn nic(&mut self, given: &Placed) -> Step<()> {
        let place = given.place.as_str();
        if given.value == "none" {
            return Ok(());
        }
        let mut value = net::option::parse(&given.value).at(place)?;
        let mut card = Plan::card(&mut value, place)?;
        let kind = take(&mut value, "type", place)?.unwrap_or_else(|| "user".to_owned());
        if kind == "none" {
            return Ok(());
        }
        if matches!(card.model.as_deref(), Some("help" | "?")) {
            crate::help::say(&models());
            return Err(Stop::Done);
        }
        let id = take(&mut value, "id", place)?;
        let id = id.unwrap_or_else(|| self.made_up());
        card.netdev.clone_from(&id);
        self.push(place, kind, id, value, Source::KeyVal)?;
        self.cards.push(card);
        Ok(())
    }

    fn net(&mut self, given: &Placed) -> Step<()> {
        let place = given.place.as_str();
        let mut value = net::option::parse(&given.value).at(place)?;
        let kind = take(&mut value, "type", place)?.unwrap_or_default();
        match kind.as_str() {
            "none" => return Ok(()),
            "nic" => {
                let mut card = Plan::card(&mut value, place)?;
                if matches!(card.model.as_deref(), Some("help" | "?")) {
                    crate::help::say(&models());
                    return Err(Stop::Done);
                }
                card.name = take(&mut value, "name", place)?;
                let vectors = take(&mut value, "vectors", place)?;
                drop(vectors);
                if let Some(netdev) = take(&mut value, "netdev", place)? {
                    card.netdev = netdev;
                    self.cards.push(card);
                } else {
                    self.hub.cards.push(card);
                }
                if let Some((name, _)) = value.as_map().unwrap_or(&[]).first() {
                    return Err(Error::invalid_parameter(name)).at(place);
                }
                return Ok(());
            }
            _ => {}
        }
        let name = take(&mut value, "name", place)?;
        let id = take(&mut value, "id", place)?.or(name);
        let id = id.unwrap_or_else(|| self.made_up());
        self.push(place, kind, id.clone(), value, Source::KeyVal)?;
        self.hub.backends.push(id);
        Ok(())
    }

    /// What `-net` gave meets at a hub; one card and one back end are simply connected.
    fn join_hub(&mut self) {
        let Hub { mut cards, backends } = std::mem::take(&mut self.hub);
        if let ([card], [backend]) = (cards.as_mut_slice(), backends.as_slice()) {
            card.netdev.clone_from(backend);
            self.cards.append(&mut cards);
            return;
        }
        let mut port = 0;
        let mut hub_port = |plan: &mut Plan, behind: Option<&str>| {
            let id = format!("hub{HUB}port{port}");
            port += 1;
            let mut value = Value::map([("hubid", Value::from(HUB))]);
            if let Some(behind) = behind {
                value.set("netdev", Value::from(behind));
            }
            let entry =
                ("-net".to_owned(), "hubport".to_owned(), id.clone(), value, Source::KeyVal);
            plan.netdevs.push(entry);
            id
        };
        for mut card in cards {
            card.netdev = hub_port(self, None);
            self.cards.push(card);
        }
        for backend in &backends {
            hub_port(self, Some(backend));
        }
    }

    /// Opens the back ends.
    pub(crate) fn open(&self, table: &Netdevs) -> Step<()> {
        for (place, kind, id, value, source) in &self.netdevs {
            table.add(id, kind, value.clone(), *source).at(place)?;
        }
        Ok(())
    }

    /// Plugs the cards in.
    pub(crate) fn plug(&self, program: &str, vm: &Vm) -> Step<()> {
        let buses = vm.machine().map(|machine| machine.devices.all()).unwrap_or_default();
        let has_pci = buses.iter().flat_map(|record| &record.buses).any(|b| b.kind() == Bus::Pci);
        for card in &self.cards {
            let model = match card.model.as_deref() {
                None | Some("virtio") => CARD,
                Some(model) => model,
            };
            let known = catalog::DEVICES.iter().any(|class| class.name == model);
            if !known || !has_pci || !model.contains("net") {
                if card.model.is_some() || !card.place.is_empty() {
                    let name = card.name.as_deref().unwrap_or("anonymous");
                    fail::say(&format!(
                        "{program}: warning: requested NIC ({name}, model {}) was not created (not \
                         supported by this machine?)\n",
                        card.model.as_deref().unwrap_or("unspecified")
                    ));
                }
                continue;
            }
            let mut value = Value::map([
                ("driver", Value::from(model)),
                ("netdev", Value::from(card.netdev.as_str())),
            ]);
            for (name, given) in [("mac", &card.mac), ("id", &card.name), ("addr", &card.addr)] {
                if let Some(text) = given {
                    value.set(name, Value::from(text.as_str()));
                }
            }
            vmm::commands::execute(vm, "device_add", value).map(|_| ()).at(&card.place)?;
        }
        Ok(())
    }
}

/// Says what is connected to nothing, as QEMU does.
pub(crate) fn warn(program: &str, vm: &Vm, table: &Netdevs) {
    let say = |text: String| fail::say(&format!("{program}: warning: {text}\n"));
    for link in table.links() {
        if link.nic().is_none() && link.kind != "hubport" && !link.id.starts_with("#net") {
            say(format!("netdev {} has no peer", link.id));
        }
    }
    for card in vmm::commands::cards(vm) {
        if card.link.is_none() {
            say(format!("nic {} has no peer", card.name));
        }
    }
}

fn models() -> String {
    let names = catalog::DEVICES.iter().map(|class| class.name);
    let names =
        names.filter(|name| name.starts_with("virtio-net-pci") || name.starts_with("e1000"));
    let line = |name: &str| match name {
        CARD => format!("{name} (aka virtio)\n"),
        _ => format!("{name}\n"),
    };
    let lines: String = names.map(line).collect();
    format!("Available NIC models for this configuration:\n{lines}")
}

/// `-netdev help`.
pub(crate) fn help(value: &str) -> Option<String> {
    if matches!(value, "help" | "?") {
        let names = catalog::NETDEVS.iter().map(|class| format!("{}\n", class.name));
        return Some(format!("Available netdev backend types:\n{}", names.collect::<String>()));
    }
    None
}
