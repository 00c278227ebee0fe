//! The human monitor's commands about networks.

use std::fmt::Write as _;
use std::sync::Arc;

use net::{Link, Netdevs, mac_text};
use qapi::Value;
use vmm::Vm;
use vmm::commands::{Card, execute};

use crate::hmp::outcome;

fn table(vm: &Vm) -> Option<Arc<Netdevs>> {
    vm.services.find()
}

fn backend(link: &Link) -> String {
    let what = link.backend().map(|backend| backend.describe()).unwrap_or_default();
    format!("{}: index=0,type={},{what}", link.id, link.kind)
}

fn card(card: &Card) -> String {
    let mac = mac_text(card.nic.info().mac);
    format!("{}: index=0,type=nic,model={},macaddr={mac}", card.name, card.model)
}

/// `info network`.
pub(crate) fn info(vm: &Arc<Vm>) -> String {
    let mut text = String::new();
    let Some(table) = table(vm) else { return text };
    let cards = vmm::commands::cards(vm);
    let on = |link: &Arc<Link>| {
        cards.iter().find(|card| card.link.as_ref().is_some_and(|own| Arc::ptr_eq(own, link)))
    };
    let mut hubs: Vec<(String, Vec<String>)> = Vec::new();
    for link in table.links().iter().filter(|link| link.kind == "hubport") {
        let what = link.backend().map(|backend| backend.describe()).unwrap_or_default();
        let hub = what.trim_start_matches("hubid=").to_owned();
        let other = match on(link) {
            Some(own) => card(own),
            None => {
                let behind = table.links().into_iter().find(|other| {
                    other.nic().is_some_and(|nic| nic.info().name.as_ref() == Some(&link.id))
                });
                behind.map(|other| backend(&other)).unwrap_or_default()
            }
        };
        let line = format!(" \\ {}: {other}", link.id);
        match hubs.iter_mut().find(|(known, _)| *known == hub) {
            Some((_, lines)) => lines.push(line),
            None => hubs.push((hub, vec![line])),
        }
    }
    for (hub, lines) in &hubs {
        _ = writeln!(text, "hub {hub}\n{}", lines.join("\n"));
    }
    let is_port = |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|l| l.kind == "hubport");
    for own in cards.iter().filter(|card| !is_port(&card.link)) {
        _ = writeln!(text, "{}", card(own));
        if let Some(link) = &own.link {
            _ = writeln!(text, " \\ {}", backend(link));
        }
    }
    for link in table.links() {
        if link.kind != "hubport" && link.nic().is_none() {
            _ = writeln!(text, "{}", backend(&link));
        }
    }
    text
}

/// `info usernet`.
pub(crate) fn usernet(vm: &Arc<Vm>) -> String {
    let mut text = String::new();
    for link in table(vm).map(|table| table.links()).unwrap_or_default() {
        if let Some(user) = link.backend().and_then(|backend| backend.user()) {
            _ = write!(text, "Hub -1 ({}):\n{}", link.id, user.table());
        }
    }
    text
}

/// The back end that a rule is for, and the rule.
fn user<'t>(vm: &Arc<Vm>, text: &'t str) -> Result<(Arc<Link>, &'t str), String> {
    let table = table(vm).ok_or_else(String::new)?;
    let (id, rule) = match text.trim().split_once(' ') {
        Some((id, rule)) => (Some(id), rule.trim()),
        None => (None, text.trim()),
    };
    let is_user = |link: &Arc<Link>| link.backend().is_some_and(|b| b.user().is_some());
    match id {
        Some(id) => {
            let link = table.find(id);
            let link = link.ok_or_else(|| format!("unrecognized netdev id '{id}'\n"))?;
            if !is_user(&link) {
                return Err("invalid device specified\n".into());
            }
            Ok((link, rule))
        }
        None => {
            let found = table.links().into_iter().find(is_user);
            found
                .map(|link| (link, rule))
                .ok_or_else(|| "user mode network stack not in use\n".into())
        }
    }
}

/// `hostfwd_add`.
pub(crate) fn add_forward(vm: &Arc<Vm>, text: &str) -> String {
    match user(vm, text) {
        Err(text) => text,
        Ok((link, rule)) => {
            match link.backend().and_then(|b| b.user()).map(|u| u.add_forward(rule)) {
                Some(Err(error)) => format!("{}\n", error.desc),
                _ => String::new(),
            }
        }
    }
}

/// `hostfwd_remove`.
pub(crate) fn remove_forward(vm: &Arc<Vm>, text: &str) -> String {
    match user(vm, text) {
        Err(text) => text,
        Ok((link, rule)) => {
            let done = link.backend().and_then(|b| b.user()).and_then(|u| u.remove_forward(rule));
            match done {
                None => "invalid format\n".into(),
                Some(true) => format!("host forwarding rule for {rule} removed\n"),
                Some(false) => format!("host forwarding rule for {rule} not found\n"),
            }
        }
    }
}

/// `netdev_add`.
pub(crate) fn add(vm: &Arc<Vm>, text: &str) -> String {
    let added = net::option::parse(text).and_then(|mut value| {
        let word = |name: &str, value: &mut Value| {
            net::option::word(value, name)?.ok_or_else(|| qapi::Error::missing(name))
        };
        let id = word("id", &mut value)?;
        let kind = word("type", &mut value)?;
        let table = table(vm).ok_or_else(|| qapi::Error::generic("there are no networks"))?;
        if !qapi::keyval::is_identifier(&id) {
            return Err(qapi::Error::not_an_identifier());
        }
        table.add(&id, &kind, value, qapi::Source::KeyVal)
    });
    outcome(added.map(|()| Value::Null))
}

/// `set_link`.
pub(crate) fn set_link(vm: &Arc<Vm>, text: &str) -> String {
    let (name, state) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let up = match state.trim() {
        "on" => true,
        "off" => false,
        _ => return "Error: Parameter 'up' expects 'on' or 'off'\n".into(),
    };
    let args = Value::map([("name", Value::from(name)), ("up", Value::Bool(up))]);
    outcome(execute(vm, "set_link", args))
}

/// `announce_self`.
pub(crate) fn announce(vm: &Arc<Vm>, text: &str) -> String {
    // The peer's defaults for migration.
    let numbers = [("initial", 50), ("max", 550), ("rounds", 5), ("step", 100)];
    let mut args = Value::map(numbers.map(|(name, value)| (name, Value::Int(value))));
    let mut words = text.split_whitespace();
    if let Some(cards) = words.next() {
        args.set("interfaces", Value::List(cards.split(',').map(Value::from).collect()));
    }
    outcome(execute(vm, "announce-self", args))
}
