//! Filters and user networking against the peer: frames of the test's own go in and come out over
//! datagram sockets, which a hub joins to what is looked at. No guest runs.

#[expect(dead_code, reason = "tests with a bus in hand use the rest")]
mod harness;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use harness::{Emulator, OURS, PEER};

const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

/// What both programs do, if the peer is here.
fn same(run: impl Fn(&str) -> Option<Vec<String>>) {
    let ours = run(OURS).expect("our program starts");
    match run(PEER) {
        Some(theirs) => assert_eq!(ours, theirs),
        None => eprintln!("the peer is not installed: not compared"),
    }
}

/// A frame whose bytes are all the same, so that it is known again.
fn frame(byte: u8) -> [u8; 64] {
    [byte; 64]
}

/// Two ends of a hub in hand of the test.
struct Wire {
    emulator: Emulator,
    a: UnixDatagram,
    b: UnixDatagram,
    chars: [(&'static str, UnixListener); 4],
    dir: tempfile::TempDir,
}

fn datagram(dir: &Path, id: &str) -> (UnixDatagram, String) {
    let own = dir.join(format!("{id}-test"));
    let socket = UnixDatagram::bind(&own).expect("a socket");
    socket.set_read_timeout(LIMIT).expect("a limit");
    let text = format!(
        "-netdev dgram,id={id},local.type=unix,local.path={}/{id},remote.type=unix,remote.path={} \
         -netdev hubport,id=h{id},hubid=0,netdev={id} ",
        dir.display(),
        own.display()
    );
    (socket, text)
}

impl Wire {
    fn start(program: &str, more: &str) -> Option<Wire> {
        let dir = tempfile::tempdir().expect("a folder");
        let ((a, args_a), (b, args_b)) = (datagram(dir.path(), "a"), datagram(dir.path(), "b"));
        // Character back ends connect before they are used by anybody.
        let chars = ["c", "d", "e", "i"]
            .map(|name| (name, UnixListener::bind(dir.path().join(name)).expect("a socket")));
        let more = more.replace("DIR", &dir.path().display().to_string());
        let mut emulator = Emulator::start(program, &format!("{args_a}{args_b}{more}"))?;
        // The peer's networks stand still with the machine.
        assert_eq!(emulator.qmp("{\"execute\":\"cont\"}"), "ok");
        a.connect(dir.path().join("a")).expect("its socket");
        b.connect(dir.path().join("b")).expect("its socket");
        Some(Wire { emulator, a, b, chars, dir })
    }

    /// The other end of a character back end.
    fn chars(&self, name: &str) -> UnixStream {
        let own = self.chars.iter().find(|(known, _)| *known == name);
        let (stream, _) = own.expect("a known name").1.accept().expect("it connects");
        stream.set_read_timeout(LIMIT).expect("a limit");
        stream
    }

    /// A frame from one end arrives at the other, and what was sent before is done with.
    fn through(&self, from: &UnixDatagram, to: &UnixDatagram, byte: u8) {
        from.send(&frame(byte)).expect("sent");
        loop {
            if first(to) == byte {
                return;
            }
        }
    }
}

fn first(socket: &UnixDatagram) -> u8 {
    let mut got = [0; 2000];
    let n = socket.recv(&mut got).expect("a frame");
    assert!(n > 0);
    got[0]
}

/// A frame that a filter wrote to a character back end.
fn next(stream: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).expect("a length");
    let mut data = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut data).expect("a frame");
    data
}

const SOCKET: &str = "-chardev socket,id=c,path=DIR/c ";

#[test]
fn a_mirror_sees_its_direction() {
    same(|program| {
        let mut told = Vec::new();
        for queue in ["rx", "tx", "all"] {
            let object = format!("-object filter-mirror,id=m,netdev=a,queue={queue},outdev=c");
            let wire = Wire::start(program, &format!("{SOCKET}{object}"))?;
            let mut copies = wire.chars("c");
            wire.through(&wire.a, &wire.b, 1);
            wire.through(&wire.b, &wire.a, 2);
            wire.through(&wire.a, &wire.b, 3);
            wire.through(&wire.b, &wire.a, 4);
            let last = if queue == "tx" { 3 } else { 4 };
            let mut seen = Vec::new();
            while seen.last() != Some(&last) {
                let copy = next(&mut copies);
                assert_eq!(copy, [copy[0]; 64]);
                seen.push(copy[0]);
            }
            told.push(format!("{queue}: {seen:?}"));
        }
        Some(told)
    });
}

#[test]
fn a_redirector_takes_frames_away_and_puts_others_in() {
    same(|program| {
        let mut told = Vec::new();
        for queue in ["rx", "tx", "all"] {
            let more = format!(
                "{SOCKET}-chardev socket,id=i,path=DIR/i \
                 -object filter-redirector,id=r,netdev=a,queue={queue},outdev=c,indev=i"
            );
            let wire = Wire::start(program, &more)?;
            let (mut taken, mut given) = (wire.chars("c"), wire.chars("i"));
            // What goes away from the end `a` is sent by it, what comes to it is received.
            let (a, b) = (&wire.a, &wire.b);
            a.send(&frame(1)).expect("sent");
            b.send(&frame(2)).expect("sent");
            let mut seen = match queue {
                "rx" => vec![first(b), next(&mut taken)[0]],
                "tx" => vec![next(&mut taken)[0], first(a)],
                _ => vec![next(&mut taken)[0], next(&mut taken)[0]],
            };
            if queue == "all" {
                seen.sort_unstable();
            }
            given.write_all(&[&64u32.to_be_bytes()[..], &frame(9)].concat()).expect("sent");
            // Injected frames go on in the filter's direction.
            if queue != "tx" {
                seen.push(first(a));
            }
            if queue != "rx" {
                seen.push(first(b));
            }
            told.push(format!("{queue}: {seen:?}"));
        }
        Some(told)
    });
}

/// Records of a dump: length, first byte, length as it was.
fn records(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).expect("a dump");
    let word = |at: usize| bytes.get(at..at + 4).map(|w| u32::from_ne_bytes(w.try_into().unwrap()));
    let mut told = vec![format!("{:x?} {:?}", word(0), word(16))];
    let mut at = 24;
    while let (Some(len), Some(whole)) = (word(at + 8), word(at + 12)) {
        told.push(format!("{len} of {whole}: {:?}", bytes.get(at + 16)));
        at += 16 + len as usize;
    }
    told
}

#[test]
fn a_dump_is_cut_at_its_longest_and_sees_its_direction() {
    same(|program| {
        let more = "-object filter-dump,id=x,netdev=a,file=DIR/x,maxlen=20 \
                    -object filter-dump,id=y,netdev=a,file=DIR/y,queue=rx";
        let wire = Wire::start(program, more)?;
        wire.through(&wire.a, &wire.b, 1);
        wire.through(&wire.b, &wire.a, 2);
        let path = |name: &str| wire.dir.path().join(name);
        Some([records(&path("x")), records(&path("y"))].concat())
    });
}

/// A mirror sees only what no redirector in front of it took.
#[test]
fn filters_stand_where_they_were_put() {
    let seen = |program: &str, places: [&str; 3]| {
        let [first, second, third] = places;
        let more = format!(
            "{SOCKET}-chardev socket,id=d,path=DIR/d \
             -chardev socket,id=e,path=DIR/e \
             -object filter-mirror,id=f0,netdev=a,queue=tx,outdev=c{first} \
             -object filter-redirector,id=f1,netdev=a,queue=tx,outdev=d{second} \
             -object filter-mirror,id=f2,netdev=a,queue=tx,outdev=e{third}"
        );
        let mut wire = Wire::start(program, &more)?;
        let (mut c, mut d, mut e) = (wire.chars("c"), wire.chars("d"), wire.chars("e"));
        wire.a.send(&frame(1)).expect("sent");
        assert_eq!(next(&mut d), frame(1));
        // Without the redirector both see the next one.
        let off = "{\"execute\":\"qom-set\",\"arguments\":{\"path\":\"/objects/f1\",\
                   \"property\":\"status\",\"value\":\"off\"}}";
        assert_eq!(wire.emulator.qmp(off), "ok");
        wire.through(&wire.a, &wire.b, 2);
        let (c, e) = (next(&mut c)[0], next(&mut e)[0]);
        Some(format!("{places:?}: c {c} e {e}"))
    };
    same(|program| {
        [
            ["", "", ""],
            [",position=head", "", ",position=head"],
            ["", ",position=head", ""],
            ["", "", ",position=id=f1,insert=before"],
            ["", "", ",position=id=f1,insert=behind"],
            ["", "", ",position=id=f1"],
            ["", ",position=id=f0,insert=before", ""],
        ]
        .into_iter()
        .map(|places| seen(program, places))
        .collect()
    });
}

#[test]
fn properties_of_filters_are_set_while_they_are_at_work() {
    same(|program| {
        let more = format!(
            "{SOCKET}-object filter-mirror,id=m,netdev=a,queue=tx,outdev=c,status=off \
             -object filter-buffer,id=w,netdev=b,interval=1000,status=off"
        );
        let mut wire = Wire::start(program, &more)?;
        let mut copies = wire.chars("c");
        let set = |wire: &mut Wire, id: &str, name: &str, value: &str| {
            wire.emulator.qmp(&format!(
                "{{\"execute\":\"qom-set\",\"arguments\":{{\"path\":\"/objects/{id}\",\
                 \"property\":\"{name}\",\"value\":{value}}}}}"
            ))
        };
        wire.through(&wire.a, &wire.b, 1);
        let mut told = vec![set(&mut wire, "m", "status", "\"on\"")];
        wire.through(&wire.a, &wire.b, 2);
        told.push(set(&mut wire, "m", "status", "\"off\""));
        wire.through(&wire.a, &wire.b, 3);
        told.push(set(&mut wire, "m", "status", "\"on\""));
        wire.through(&wire.a, &wire.b, 4);
        told.push(format!("{} {}", next(&mut copies)[0], next(&mut copies)[0]));
        told.push(set(&mut wire, "m", "status", "\"maybe\""));
        told.push(set(&mut wire, "w", "interval", "2000"));
        told.push(set(&mut wire, "w", "interval", "0"));
        told.push(wire.emulator.qmp("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"m\"}}"));
        Some(told)
    });
}

#[test]
fn wrong_taps_and_bridges_are_refused_in_the_peers_words() {
    let words = |program: &str, netdev: &str| {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(program);
        command.arg0(PEER).args(["-M", "none", "-display", "none", "-netdev", netdev]);
        let out = command.stdin(std::process::Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let text = text.lines().next().unwrap_or_default().to_owned();
        let words = text.split_once(": ").map_or(text.as_str(), |(_, words)| words);
        Some(format!("{:?} {words}", out.status.code()))
    };
    same(|program| {
        let helper = "bridge,id=n,br=br0,helper=/bin/false";
        let all = [
            "tap,id=n,fd=99,ifname=x",
            "tap,id=n,fd=0",
            "tap,id=n,fds=0:0,queues=2",
            "tap,id=n,helper=/bin/false",
            "tap,id=n,vhostfds=1:2",
            helper,
        ];
        all.into_iter().map(|netdev| words(program, netdev)).collect()
    });
}
