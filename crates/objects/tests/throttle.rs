//! `throttle-group` with the drives and nodes that use it: one set of limits by one name, in QEMU
//! 10.0's words.

#![expect(clippy::disallowed_methods, reason = "a thread that waits in a node")]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use block::{BlockClass, Graph, Keys, Limit, Op, Request, Rules};
use device::{Getter, Objects, Services, Setter};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use objects::throttle;
use qapi::{Source, Value, json};

static CLASSES: &[&BlockClass] = &[&block::NULL_CO, &block::THROTTLE];

struct World {
    objects: Arc<Objects>,
    graph: Arc<Graph>,
}

impl World {
    fn new() -> World {
        let services = Services::default();
        let graph = Graph::new(CLASSES);
        services.add(graph.clone());
        let objects = Arc::new(Objects::new(services));
        graph.set_keys(Keys::of(objects.clone()));
        World { objects, graph }
    }

    fn add(&self, id: &str, props: &str) -> Result<(), String> {
        let props = json::from_str(props).unwrap();
        self.objects.add(&throttle::CLASS, id, props, Source::Json).map_err(|e| e.desc)
    }

    fn get(&self, id: &str, name: &str) -> Value {
        let Getter(get) = self.objects.find(id).unwrap().ability().unwrap();
        get(name).unwrap()
    }

    fn limit(&self, id: &str, name: &str) -> Option<i64> {
        match self.get(id, "limits").get(name) {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        }
    }

    fn set(&self, id: &str, name: &str, value: &str) -> Result<bool, String> {
        let Setter(set) = self.objects.find(id).unwrap().ability().unwrap();
        set(name, &json::from_str(value).unwrap()).map_err(|e| e.desc)
    }

    fn node(&self, name: &str, group: &str) -> Result<(), String> {
        let text = format!(
            r#"{{"driver": "throttle", "node-name": "{name}", "throttle-group": "{group}",
                "file": {{"driver": "null-co"}}}}"#
        );
        let added = self.graph.add(json::from_str(&text).unwrap(), Source::Json);
        added.map(|_| ()).map_err(|e| e.desc)
    }
}

fn refused<T: std::fmt::Debug + PartialEq>(got: Result<T, String>, want: &str) {
    assert_eq!(got.unwrap_err(), want);
}

/// Requests per second of all.
fn rules(iops: f64) -> Rules {
    let mut rules = [Limit { average: 0.0, max: 0.0, length: 1.0 }; 6];
    rules[3].average = iops;
    rules
}

#[test]
fn limits_change_while_the_object_lives_and_what_is_not_named_stays() {
    let w = World::new();
    w.add("g", r#"{"limits": {"iops-total": 100}}"#).unwrap();
    assert_eq!(w.get("g", "x-iops-total"), Value::Int(100));
    assert_eq!(w.limit("g", "iops-total-max-length"), Some(1));
    assert!(w.set("g", "limits", r#"{"iops-total": 50, "bps-read": 1000}"#).unwrap());
    let change = r#"{"iops-total": 0, "iops-read": 5, "iops-size": 4096}"#;
    assert!(w.set("g", "limits", change).unwrap());
    let now = ["iops-total", "iops-read", "bps-read", "iops-size", "bps-total"];
    assert_eq!(now.map(|name| w.limit("g", name).unwrap()), [0, 5, 1000, 4096, 0]);
    for (value, text) in [
        (
            r#"{"iops-total": 10}"#,
            "bps/iops/max total values and read/write values cannot be used at the same time",
        ),
        (r#"{"bps-write": -1}"#, "bps/iops/max values must be within [0, 1000000000000000]"),
        (r#"{"foo": 1}"#, "Parameter 'limits.foo' is unexpected"),
        ("5", "Invalid parameter type for 'limits', expected: object"),
        (r#"{"iops-read": 0}"#, "iops size requires an iops value to be set"),
    ] {
        refused(w.set("g", "limits", value), text);
    }
    refused(w.set("g", "x-iops-total", "77"), "Property cannot be set after initialization");
    assert_eq!(now.map(|name| w.limit("g", name).unwrap()), [0, 5, 1000, 4096, 0]);
    for (props, text) in [
        (r#"{"x-iops-total": -10}"#, "Property values cannot be negative"),
        (r#"{"x-iops-total-max-length": 0}"#, "the burst length cannot be 0"),
        (r#"{"limits": {"iops-size": 512}}"#, "iops size requires an iops value to be set"),
        (
            r#"{"limits": {"iops-total": 1, "iops-total-max": 2, "iops-total-max-length": -1}}"#,
            "burst length too high for this burst rate",
        ),
    ] {
        refused(w.add("e", props), text);
    }
}

#[test]
fn drives_nodes_and_objects_share_groups_by_name() {
    let w = World::new();
    let drive = w.graph.add_drive("d", None).unwrap();
    w.graph.limit(&drive, "mine", &rules(40.0), 0).unwrap();
    refused(w.add("mine", "{}"), "A group with this name already exists");
    w.node("t", "mine").unwrap();
    refused(w.node("u", "nobody"), "Throttle group 'nobody' does not exist");
    // The object's group by its name: the drive's limits are its own, and stay when it leaves.
    w.add("g", r#"{"limits": {"iops-total": 100}}"#).unwrap();
    w.graph.limit(&drive, "g", &rules(300.0), 0).unwrap();
    assert_eq!(w.limit("g", "iops-total"), Some(300));
    w.set("g", "limits", r#"{"iops-total": 11}"#).unwrap();
    assert_eq!(drive.io_group().unwrap().rules().0, rules(11.0));
    let busy = "object 'g' is in use, can not be deleted";
    let remove = || w.objects.remove("g").map_err(|e| e.desc);
    refused(remove(), busy);
    w.graph.limit(&drive, "", &rules(0.0), 0).unwrap();
    w.node("v", "g").unwrap();
    refused(remove(), busy);
    w.graph.delete("v").unwrap();
    remove().unwrap();
}

#[test]
fn requests_that_wait_go_by_new_limits() {
    let w = World::new();
    // One request in a thousand seconds, after the first.
    w.add("g", r#"{"limits": {"iops-total": 1}}"#).unwrap();
    let options = json::from_str(r#"{"driver": "null-co", "node-name": "n"}"#).unwrap();
    let node = w.graph.add(options, Source::Json).unwrap();
    let drive = w.graph.add_drive("d", Some(node)).unwrap();
    w.graph.limit(&drive, "g", &rules(0.001), 0).unwrap();
    let ram = RamBlock::new("ram", 1 << 16, RamOptions::default()).unwrap();
    let (send, done) = channel();
    let lane = w.graph.lane(None);
    for n in 0..3 {
        let send = send.clone();
        let memory = vec![RamSlice::new(ram.clone(), 0, 512).unwrap()];
        let done = Box::new(move |_: std::io::Result<()>| send.send(n).unwrap());
        let (op, at, len) = (Op::Read, 0, 512);
        drive.submit(&lane, Request { op, at, len, memory, through: false, parts: 1, done });
    }
    assert_eq!(done.recv().unwrap(), 0);
    assert!(done.try_recv().is_err());
    w.set("g", "limits", r#"{"iops-total": 1000000}"#).unwrap();
    let long = Duration::from_secs(100);
    assert_eq!([(); 2].map(|()| done.recv_timeout(long).unwrap()), [1, 2]);
    // The same for a node, whose requests wait on their threads.
    w.set("g", "limits", r#"{"iops-total": 1}"#).unwrap();
    w.node("t", "g").unwrap();
    w.graph.limit(&drive, "g", &rules(0.001), 0).unwrap();
    let node = w.graph.find("t").unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 512];
        (0..3).for_each(|_| node.read(0, &mut bytes).unwrap());
        _ = send.send(9);
    });
    assert!(done.recv_timeout(Duration::from_millis(50)).is_err());
    w.set("g", "limits", r#"{"iops-total": 0}"#).unwrap();
    assert_eq!(done.recv_timeout(long).unwrap(), 9);
    reader.join().unwrap();
}
