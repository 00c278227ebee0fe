//! Every object: what it does, and its messages, which are those of QEMU 10.0.

use std::io::Write;
use std::sync::Arc;

use device::{Entropy, ObjectClass, Objects, SecretBytes};
use guest_ram::RamBlock;
use objects::{iothread, memory, rng, secret};
use qapi::{Source, keyval::Dialect};

fn add(all: &Objects, class: &'static ObjectClass, id: &str, props: &str) -> Result<(), String> {
    let props = Dialect::structured(None).parse(props).map_err(|e| e.desc)?.value;
    all.add(class, id, props, Source::KeyVal).map_err(|e| e.desc)
}

fn refused(class: &'static ObjectClass, cases: &[(&str, &str)]) {
    for (props, want) in cases {
        let got = add(&Objects::default(), class, "m", props);
        assert_eq!(got, Err((*want).to_owned()), "{} {props}", class.name);
    }
}

fn secret_of(all: &Objects, id: &str) -> Vec<u8> {
    all.find(id).unwrap().ability::<SecretBytes>().unwrap().0.to_vec()
}

const KEY: &str = "data=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=,format=base64";
const IV: &str = "iv=MDEyMzQ1Njc4OWFiY2RlZg==";

#[test]
fn secrets_are_read_decoded_and_decrypted() {
    let all = Objects::default();
    add(&all, &secret::CLASS, "a", "data=letmein").unwrap();
    add(&all, &secret::CLASS, "b", "data=YWJj,format=base64").unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"in a file\n").unwrap();
    let path = file.path().display();
    add(&all, &secret::CLASS, "c", &format!("file={path}")).unwrap();
    assert_eq!(secret_of(&all, "a"), b"letmein");
    assert_eq!(secret_of(&all, "b"), b"abc");
    assert_eq!(secret_of(&all, "c"), b"in a file\n", "as the file has it");
    add(&all, &secret::CLASS, "key", KEY).unwrap();
    // openssl enc -aes-256-cbc of this text.
    let data = "data=bTYuK/6h0S+wIVnJYP28BqLdPbDWxKJL9NayNL/Bvdw=";
    add(&all, &secret::CLASS, "d", &format!("{data},format=base64,keyid=key,{IV}")).unwrap();
    assert_eq!(secret_of(&all, "d"), b"hello secret world");
}

#[test]
fn wrong_secrets_are_refused_in_the_peers_words() {
    let bad_base64 = "Base64 data contains invalid characters";
    refused(
        &secret::CLASS,
        &[
            ("", "Either 'file' or 'data' must be provided"),
            ("data=a,file=b", "'file' and 'data' are mutually exclusive"),
            ("data=YW*,format=base64", bad_base64),
            ("data=a,keyid=k", "No secret with id 'k'"),
            ("data=a,format=xx", "Parameter 'format' does not accept value 'xx'"),
            (
                "file=/nonexist",
                "Unable to read /nonexist: Failed to open file “/nonexist”: No such file or directory",
            ),
        ],
    );
    let all = Objects::default();
    add(&all, &secret::CLASS, "k", KEY).unwrap();
    add(&all, &secret::CLASS, "short", "data=a").unwrap();
    add(&all, &rng::BUILTIN, "r", "").unwrap();
    for (props, want) in [
        ("data=YWJj,keyid=short", "Key should be 32 bytes in length"),
        ("data=YWJj,keyid=k,format=base64", "IV is required to decrypt secret"),
        ("data=YWJj,keyid=k,iv=YWJj,format=base64", "IV should be 16 bytes in length not 3"),
        (
            "data=YWJj,keyid=k,iv=MDEyMzQ1Njc4OWFiY2RlZg==",
            "Length 4 must be a multiple of block size 16",
        ),
        (
            "data=MDEyMzQ1Njc4OWFiY2RlZg==,keyid=k,iv=MDEyMzQ1Njc4OWFiY2RlZg==,format=base64",
            "Incorrect number of padding bytes (122) found on decrypted data",
        ),
        ("data=YWJj,keyid=k,iv=!,format=base64", bad_base64),
        ("data=YWJj,keyid=r", "Object with id 'r' is not a secret"),
    ] {
        assert_eq!(add(&all, &secret::CLASS, "s", props), Err(want.to_owned()), "{props}");
    }
}

#[test]
fn random_bytes_never_break_a_decryption() {
    let key = SecretBytes(Arc::from(*b"0123456789abcdef0123456789abcdef"));
    for len in 0..200usize {
        let props = secret::Props {
            data: Some("A/b+".repeat(len)),
            file: None,
            format: secret::Format::Base64,
            keyid: None,
            iv: Some("MDEyMzQ1Njc4OWFiY2RlZg==".into()),
        };
        _ = secret::value(&props, Some(&key));
    }
}

fn entropy(all: &Objects, id: &str) -> Arc<dyn Entropy> {
    all.find(id).unwrap().ability().unwrap()
}

#[test]
fn entropy_comes_from_the_host_or_a_file() {
    let all = Objects::default();
    add(&all, &rng::BUILTIN, "b", "").unwrap();
    add(&all, &rng::RANDOM, "r", "").unwrap();
    for id in ["b", "r"] {
        let mut out = [0; 64];
        assert_eq!(entropy(&all, id).fill(&mut out).unwrap(), 64);
        assert!(out.iter().any(|b| *b != 0), "{id}");
    }
    let want = "Could not open '/nonexist': No such file or directory";
    assert_eq!(add(&all, &rng::RANDOM, "x", "filename=/nonexist"), Err(want.into()));
}

#[test]
fn an_empty_pipe_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let all = Objects::default();
    add(&all, &rng::RANDOM, "r", &format!("filename={}", path.display())).unwrap();
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let source = entropy(&all, "r");
    let mut out = [0; 8];
    let error = source.fill(&mut out).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    let (tell, told) = std::sync::mpsc::channel();
    source.when_ready(Box::new(move || tell.send(()).unwrap()));
    assert!(told.try_recv().is_err());
    writer.write_all(b"abc").unwrap();
    told.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!((source.fill(&mut out).unwrap(), &out[..3]), (3, &b"abc"[..]));
}

#[test]
fn an_io_thread_runs_calls_and_ends() {
    let all = Objects::default();
    add(&all, &iothread::CLASS, "io0", "poll-max-ns=100000").unwrap();
    let held = all.hold::<evloop::Handle>("iothread", "io0", "iothread").unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    for n in 0..3 {
        let tell = tell.clone();
        held.call(Box::new(move || {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            tell.send((n, name)).unwrap();
        }));
    }
    let wait = std::time::Duration::from_secs(30);
    for n in 0..3 {
        assert_eq!(told.recv_timeout(wait).unwrap(), (n, "IO io0".to_owned()));
    }
    assert!(all.remove("io0").is_err(), "it is in use");
    drop(held);
    all.remove("io0").unwrap();
    let range = "must be in range [0, 9223372036854775807]";
    refused(
        &iothread::CLASS,
        &[
            ("poll-max-ns=-1", &format!("poll-max-ns value {range}")),
            ("aio-max-batch=-1", &format!("aio-max-batch value {range}")),
            ("thread-pool-min=9,thread-pool-max=3", "bad thread-pool-min/thread-pool-max values"),
            ("thread-pool-max=0", "bad thread-pool-min/thread-pool-max values"),
        ],
    );
}

fn block(all: &Objects, id: &str) -> Arc<RamBlock> {
    all.find(id).unwrap().ability().unwrap()
}

#[test]
fn memory_is_made_in_every_form() {
    let all = Objects::default();
    let forms: [(&'static ObjectClass, &str); 5] = [
        (&memory::RAM, "size=64K"),
        (&memory::RAM, "size=64K,share=on,prealloc=on,prealloc-threads=3,merge=off,dump=off"),
        (&memory::RAM, "size=1M,reserve=off,x-use-canonical-path-for-ramblock-id=on"),
        (&memory::MEMFD, "size=64K"),
        (&memory::MEMFD, "size=64K,share=off,seal=off"),
    ];
    for (n, (class, props)) in forms.into_iter().enumerate() {
        let id = format!("m{n}");
        add(&all, class, &id, props).unwrap();
        let block = block(&all, &id);
        block.store(0x8000, 8, 0x1234).unwrap();
        assert_eq!(block.load(0x8000, 8), Ok(0x1234), "{props}");
        let canonical = props.contains("canonical");
        assert_eq!(block.name(), if canonical { "/objects/m2" } else { &id });
    }
    assert_eq!(block(&all, "m2").len(), 1 << 20);
}

#[test]
fn files_are_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ram");
    let at = path.display();
    let all = Objects::default();
    add(&all, &memory::FILE, "new", &format!("size=64K,mem-path={at},share=on")).unwrap();
    block(&all, "new").write(0x1000, b"through").unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[0x1000..0x1007], b"through");
    add(&all, &memory::FILE, "own", &format!("size=4K,offset=4K,mem-path={at}")).unwrap();
    let own = block(&all, "own");
    let mut out = [0; 7];
    own.read(0, &mut out).unwrap();
    assert_eq!(&out, b"through");
    own.write(0, b"private").unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[0x1000..0x1007], b"through");
    add(&all, &memory::FILE, "ro", &format!("size=64K,mem-path={at},readonly=on")).unwrap();
    assert!(block(&all, "ro").is_rom() && !own.is_rom());
    let folder = folder.path().display();
    add(&all, &memory::FILE, "dir", &format!("size=64K,mem-path={folder}")).unwrap();
    assert_eq!(std::fs::read_dir(folder.to_string()).unwrap().count(), 1, "it has no name");
    let props = format!("size=64K,mem-path={at},share=on,discard-data=on");
    add(&all, &memory::FILE, "gone", &props).unwrap();
    all.remove("gone").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), vec![0; 0x10000]);
    let small = |props: &str, size: u64, offset: u64| {
        let want = format!(
            "m backing store size 0x10000 is too small for 'size' option {size:#x} plus 'offset' \
             option {offset:#x}"
        );
        refused(&memory::FILE, &[(&format!("mem-path={at},{props}"), &want)]);
    };
    small("size=128K", 0x20000, 0);
    small("size=64K,offset=5", 0x10000, 5);
}

#[test]
fn wrong_memory_is_refused_in_the_peers_words() {
    refused(
        &memory::RAM,
        &[
            ("", "Parameter 'size' is missing"),
            ("size=0", "property 'size' of memory-backend-ram doesn't take value '0'"),
            ("size=abc", "Parameter 'size' expects a size value"),
            ("size=1M,policy=bind", "host-nodes must be set for policy bind"),
            (
                "size=1M,host-nodes=0",
                "host-nodes must be empty for policy default, or you should explicitly specify a \
             policy other than default",
            ),
            ("size=1M,host-nodes=500,policy=bind", "Invalid host-nodes value: 500"),
            (
                "size=1M,prealloc-threads=0",
                "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'",
            ),
            ("size=1M,policy=foo", "Parameter 'policy' does not accept value 'foo'"),
            ("size=1M,reserve=off,prealloc=on", "'prealloc=on' and 'reserve=off' are incompatible"),
            ("size=999999G", "cannot set up guest memory 'm': Cannot allocate memory"),
        ],
    );
    refused(
        &memory::MEMFD,
        &[
            ("size=1M,hugetlb=on,hugetlbsize=3M", "Hugepage size must be a power of 2"),
            (
                "size=1M,hugetlb=on,hugetlbsize=0",
                "Property 'memory-backend-memfd.hugetlbsize' doesn't take value '0'",
            ),
        ],
    );
    let file = "size=1M,mem-path=/dev/zero";
    refused(
        &memory::FILE,
        &[
            ("size=1M", "Parameter 'mem-path' is missing"),
            (
                "size=1M,mem-path=/nonexist/foo",
                "can't open backing store /nonexist/foo for guest RAM: No such file or directory",
            ),
            (&format!("{file},align=3"), "alignment 0x3 must be multiples of page size 0x1000"),
            (
                &format!("{file},readonly=on,share=on,rom=off"),
                "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'",
            ),
            (
                &format!("{file},rom=on"),
                "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
            ),
            (&format!("{file},pmem=on"), "persistent memory (pmem=on) is not supported"),
        ],
    );
}
