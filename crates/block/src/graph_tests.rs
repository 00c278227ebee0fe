use super::*;
use qapi::keyval::Dialect;

static CLASSES: &[&BlockClass] = &[&crate::FILE, &crate::RAW, &crate::NULL_CO];

fn add(graph: &Graph, text: &str) -> std::result::Result<Arc<Node>, String> {
    let value = Dialect::structured(Some("driver")).parse(text).unwrap().value;
    graph.add(value, Source::KeyVal).map_err(|error| error.desc)
}

#[test]
fn nodes_are_named_used_and_deleted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let path = file.path().display();
    let graph = Graph::new(CLASSES);
    add(&graph, &format!("file,node-name=f0,filename={path},discard=unmap")).unwrap();
    let raw = add(&graph, "raw,node-name=d0,file=f0,offset=512,size=1024").unwrap();
    raw.write(0, b"hello").unwrap();
    assert_eq!(&std::fs::read(file.path()).unwrap()[512..517], b"hello");
    assert_eq!(raw.len(), 1024);
    assert!(raw.write(1023, b"xx").is_err() && raw.read(u64::MAX, &mut [0]).is_err());
    assert_eq!(graph.delete("f0").unwrap_err().desc, "Block device f0 is in use");
    // What passes requests on writes only when somebody writes to it.
    let second = add(&graph, "raw,node-name=d1,file=f0").unwrap();
    assert!(add(&graph, "raw,node-name=d0,file=f0").err().unwrap().contains("Duplicate nodes"));
    let user = graph.attach("d0", "disk", Use { writes: true, shares_write: false }).unwrap();
    assert!(graph.attach("d0", "disk", Use { writes: true, shares_write: false }).is_err());
    let both = graph.attach("d1", "disk", Use { writes: true, shares_write: true });
    assert_eq!(
        both.err().unwrap().desc,
        "Permission conflict on node 'f0': permissions 'write' are both required by node 'd1' \
         (uses node 'f0' as 'file' child) and unshared by node 'd0' (uses node 'f0' as 'file' child)."
    );
    drop(second);
    graph.delete("d1").unwrap();
    drop((user, raw));
    graph.delete("d0").unwrap();
    graph.delete("f0").unwrap();
    assert!(graph.nodes().is_empty());
}

#[test]
fn what_a_device_uses_is_told_of_when_it_is_deleted() {
    let graph = Graph::new(CLASSES);
    let node = add(&graph, "null-co,node-name=n").unwrap();
    let user = User { path: "x".into(), writes: true, shares_write: false, removable: false };
    let backend = graph.claim(Some("n"), user).unwrap().unwrap();
    assert_eq!(graph.delete("n").unwrap_err().desc, "Node n is in use");
    drop((backend, node));
    graph.delete("n").unwrap();
}

#[test]
fn mistakes_are_told_in_the_words_of_the_peer() {
    let graph = Graph::new(CLASSES);
    let fails = |text: &str| add(&graph, text).err().unwrap_or_default();
    assert_eq!(fails("null-co"), "'node-name' must be specified for the root node");
    assert_eq!(fails("null-co,node-name=a,foo=1"), "Parameter 'foo' is unexpected");
    assert_eq!(
        fails("file,node-name=a,filename=/nonexistent"),
        "Could not open '/nonexistent': No such file or directory"
    );
    assert_eq!(fails("file,node-name=a"), "Parameter 'filename' is missing");
    assert!(fails("bogus,node-name=a").contains("'driver' does not accept value 'bogus'"));
    assert!(fails("raw,node-name=a,file=nix").contains("node-name='nix'"));
    assert!(fails("null-co,node-name=a,read-only=maybe").contains("read-only"));
}

#[test]
fn a_second_writer_is_kept_off() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let path = file.path().display().to_string();
    let (one, two) = (Graph::new(CLASSES), Graph::new(CLASSES));
    let first = one.open_image(&path, Some("raw"), Flags::default()).unwrap();
    let error = two.open_image(&path, Some("raw"), Flags::default()).err().unwrap();
    assert_eq!(error.desc, "Failed to get \"write\" lock");
    let flags = Flags { read_only: true, ..Flags::default() };
    let error = two.open_image(&path, Some("raw"), flags).err().unwrap();
    assert_eq!(error.desc, "Failed to get shared \"write\" lock");
    two.open_image(&path, Some("raw"), Flags { force_share: true, ..flags }).unwrap();
    drop(first);
    two.open_image(&path, None, Flags::default()).unwrap();
}

#[test]
fn names_of_backing_files_are_relative_to_the_image() {
    assert_eq!(relative_to("/a/b.qcow2", "c.raw"), "/a/c.raw");
    assert_eq!(relative_to("b.qcow2", "c.raw"), "c.raw");
    assert_eq!(relative_to("/a/b.qcow2", "/c.raw"), "/c.raw");
    assert_eq!(relative_to("/a/b.qcow2", "null-co://"), "null-co://");
    assert!(filename_options("bogus:x").is_err());
}

#[test]
fn drives_and_nodes_share_their_names() {
    let graph = Graph::new(CLASSES);
    let node = add(&graph, "null-co,node-name=n").unwrap();
    graph.add_drive("d", Some(node)).unwrap();
    assert_eq!(
        add(&graph, "null-co,node-name=d").err().unwrap(),
        "node-name=d is conflicting with a device id"
    );
    assert_eq!(
        add(&graph, "null-co,node-name=n").err().unwrap(),
        "Duplicate nodes with node-name='n'"
    );
    assert_eq!(
        graph.add_drive("n", None).err().unwrap().desc,
        "Device name 'n' conflicts with an existing node name"
    );
}
