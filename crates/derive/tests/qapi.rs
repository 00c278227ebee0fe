//! The derive `Qapi` as its users see it.

use derive::Qapi;
use qapi::{Qapi as _, Result, Source, Value, json, keyval::Dialect, schema::Schema};

/// How loud.
#[derive(Clone, Copy, Debug, PartialEq, Qapi)]
enum Volume {
    /// Not at all.
    Off,
    VeryLoud,
}

#[derive(Debug, PartialEq, Qapi)]
struct FileBackend {
    /// Where the output goes.
    out: String,
    #[qapi(default = false)]
    append: bool,
}

#[derive(Debug, PartialEq, Qapi)]
#[qapi(tag = "type", content = "data")]
enum Backend {
    Null,
    File(FileBackend),
}

#[derive(Debug, PartialEq, Qapi)]
#[qapi(tag = "driver")]
enum Flat {
    File(FileBackend),
    Null,
}

#[derive(Debug, PartialEq, Qapi)]
enum NameOrNumber {
    Number(i64),
    Name(String),
}

/// Adds a thing.
///
/// It is added.
#[derive(Debug, PartialEq, Qapi)]
struct Add {
    /// Its name.
    id: String,
    backend: Backend,
    #[qapi(default = 7)]
    port_number: u16,
    volume: Option<Volume>,
    #[qapi(name = "list_of")]
    list: Option<Vec<NameOrNumber>>,
    #[qapi(skip)]
    hidden: u32,
}

#[derive(Debug, PartialEq, Qapi)]
struct WithFlat {
    id: String,
    #[qapi(flatten)]
    flat: Flat,
}

#[derive(Debug, PartialEq, Qapi)]
struct WithRest {
    driver: String,
    #[qapi(rest)]
    props: Value,
}

/// Refers to itself.
#[derive(Debug, Qapi)]
struct Node {
    backing: Option<Box<Node>>,
}

#[derive(Debug, PartialEq, Qapi)]
struct ChardevId(String);

fn from_json<T: qapi::Qapi>(text: &str) -> Result<T> {
    T::from_value(json::from_str(text)?, Source::Json)
}

fn error<T: qapi::Qapi>(text: &str) -> String {
    match from_json::<T>(text) {
        Ok(_) => "no error".into(),
        Err(error) => error.desc,
    }
}

#[test]
fn defaults_renames_and_unions() {
    let text = "{'id':'a','backend':{'type':'file','data':{'out':'x'}},'volume':'very-loud',\
                'list_of':[1,'b']}";
    let add: Add = from_json(text).expect("valid");
    assert_eq!(add.port_number, 7);
    assert_eq!(add.volume, Some(Volume::VeryLoud));
    assert_eq!(add.list, Some(vec![NameOrNumber::Number(1), NameOrNumber::Name("b".into())]));
    let again = Add::from_value(add.to_value(), Source::Json).expect("own output is valid");
    assert_eq!(again, add);
}

#[test]
fn keyval_text_becomes_typed() {
    let text = "a,backend.type=file,backend.data.out=x,backend.data.append=on,port-number=0x10";
    let value = Dialect::structured(Some("id")).parse(text).expect("parses").value;
    let add = Add::from_value(value, Source::KeyVal).expect("valid");
    assert_eq!(add.port_number, 16);
    assert_eq!(add.backend, Backend::File(FileBackend { out: "x".into(), append: true }));
}

#[test]
fn errors_are_worded_as_in_qemu() {
    for (text, want) in [
        ("{}", "Parameter 'id' is missing"),
        ("{'id':'a','backend':{'type':'zz'}}", "Parameter 'type' does not accept value 'zz'"),
        ("{'id':'a','backend':{'type':'file'}}", "Parameter 'backend.data' is missing"),
        (
            "{'id':'a','backend':{'type':'file','data':{}}}",
            "Parameter 'backend.data.out' is missing",
        ),
        (
            "{'id':'a','backend':{'type':'file','data':{'out':'z','x':1}}}",
            "Parameter 'backend.data.x' is unexpected",
        ),
        (
            "{'id':'a','backend':{'type':'file','data':3}}",
            "Invalid parameter type for 'backend.data', expected: object",
        ),
        ("{'id':3}", "Invalid parameter type for 'id', expected: string"),
        (
            "{'id':'a','backend':{'type':'null','data':{}},'port-number':65536}",
            "Parameter 'port-number' expects uint16_t",
        ),
        ("3", "Invalid parameter type for 'null', expected: object"),
    ] {
        assert_eq!(error::<Add>(text), want, "{text}");
    }
}

#[test]
fn flat_unions_take_the_members_beside_the_tag() {
    let value: WithFlat = from_json("{'id':'a','driver':'file','out':'o'}").expect("valid");
    assert_eq!(value.flat, Flat::File(FileBackend { out: "o".into(), append: false }));
    assert_eq!(
        error::<WithFlat>("{'id':'a','driver':'null','out':'o'}"),
        "Parameter 'out' is unexpected"
    );
    let rest: WithRest = from_json("{'x':1,'driver':'d','y':2}").expect("valid");
    assert_eq!(json::to_string(&rest.props), r#"{"x": 1, "y": 2}"#);
    assert!(
        from_json::<Node>("{'backing':{'backing':{}}}").is_ok_and(|node| node.backing.is_some())
    );
    assert_eq!(from_json::<ChardevId>("'c0'"), Ok(ChardevId("c0".into())));
}

#[test]
fn documentation_reaches_the_help() {
    assert_eq!(Add::type_info().doc, "Adds a thing.  It is added.");
    assert_eq!(
        qapi::member_lines("add", FileBackend::type_info()),
        "add options:\n  append=<bool>          - on/off (default: off)\n  \
         out=<str>              - Where the output goes\n"
    );
}

#[test]
fn schema_masks_types_and_ends() {
    let mut schema = Schema::new(std::collections::BTreeMap::new());
    schema.command("add", (Add::type_info, <()>::type_info), false, &[]);
    schema.command("node", (Node::type_info, Vec::<Node>::type_info), true, &[]);
    schema.command("flat", (WithFlat::type_info, <()>::type_info), true, &[]);
    let text = json::to_string(&schema.finish());
    assert!(text.contains(r#"{"case": "file", "type": "#), "{text}");
    assert!(text.contains(r#""meta-type": "alternate""#), "{text}");
    assert!(!text.contains("Backend"), "{text}");
}
