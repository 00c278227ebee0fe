//! The table of `info usernet`.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::conns::Conns;
use crate::flows::{Flows, Owner};
use crate::user::Reach;

fn address(ip: IpAddr) -> String {
    if ip.is_unspecified() { "*".into() } else { ip.to_string() }
}

struct Line {
    state: String,
    fd: i32,
    from: (String, String),
    to: (String, String),
    queues: (usize, usize),
}

fn line(text: &mut String, line: &Line) {
    let Line { state, fd, from, to, queues } = line;
    _ = writeln!(
        text,
        "  {state:<15} {fd:>5} {:>15} {:>5} {:>15} {:>5} {:>5} {:>5}",
        from.0, from.1, to.0, to.1, queues.0, queues.1
    );
}

/// Rules, connections and sockets.
pub(crate) fn table(conns: &Conns, flows: &Flows, reach: &Reach, now: u64) -> String {
    let mut text = String::from(
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n",
    );
    for (rule, guest, fd) in conns.rules() {
        let kind = if rule.udp { "UDP" } else { "TCP" };
        let all = flows.list(now);
        let own = |o: &crate::flows::FlowInfo| o.owner == Owner::Udp { guest, v4: true };
        let fd = fd.or_else(|| all.iter().find(|o| own(o)).map(|o| o.fd)).unwrap_or(-1);
        line(
            &mut text,
            &Line {
                state: format!("{kind}[HOST_FORWARD]"),
                fd,
                from: (address(rule.host.ip()), rule.host.port().to_string()),
                to: (address(guest.ip()), guest.port().to_string()),
                queues: (0, 0),
            },
        );
    }
    for (conn, fd) in conns.all() {
        line(
            &mut text,
            &Line {
                state: format!("TCP[{}]", conn.state_name()),
                fd,
                from: (address(conn.pair.guest.ip()), conn.pair.guest.port().to_string()),
                to: (address(conn.pair.remote.ip()), conn.pair.remote.port().to_string()),
                queues: conn.queued(),
            },
        );
    }
    for flow in flows.list(now).iter().filter(|flow| !flow.fixed) {
        let seconds = flow.left / 1_000_000_000;
        let (state, from) = match flow.owner {
            Owner::Udp { guest, .. } => {
                (format!("UDP[{seconds} sec]"), (address(guest.ip()), guest.port().to_string()))
            }
            Owner::Echo { guest, id } => {
                (format!("ICMP[{seconds} sec]"), (address(guest), id.to_string()))
            }
        };
        let port = flow.local.map_or(0, |local| local.port());
        let to = ("*".to_owned(), port.to_string());
        line(&mut text, &Line { state, fd: flow.fd, from, to, queues: (0, 0) });
    }
    _ = reach;
    text
}
