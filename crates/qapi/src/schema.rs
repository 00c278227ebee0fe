//! `query-qmp-schema`: the interface described by itself.
//!
//! As QEMU does, the names of types are masked with numbers, so that nobody comes to depend on
//! them; commands, events, members and enumeration words keep their names. Built-in types are
//! named as they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Kind, Member, TypeInfo, TypeRef, Value};

/// Collects types while commands and events are added, then gives the reply.
#[derive(Default)]
pub struct Schema {
    entries: Vec<Value>,
    types: Vec<Value>,
    masked: BTreeMap<usize, String>,
    builtins: BTreeSet<&'static str>,
    next: usize,
    families: BTreeMap<&'static str, Vec<(&'static str, TypeRef)>>,
}

impl Schema {
    /// An empty schema; `families` gives the branches of open unions.
    pub fn new(families: BTreeMap<&'static str, Vec<(&'static str, TypeRef)>>) -> Self {
        Self { families, ..Self::default() }
    }

    /// Adds a command.
    pub fn command(
        &mut self,
        name: &str,
        (args, returns): (TypeRef, TypeRef),
        oob: bool,
        features: &[&str],
    ) {
        let args = self.name_of(args());
        let returns = self.name_of(returns());
        let mut entry = Value::map([
            ("name", Value::from(name)),
            ("ret-type", Value::Str(returns)),
            ("meta-type", Value::from("command")),
            ("arg-type", Value::Str(args)),
        ]);
        if oob {
            entry.set("allow-oob", Value::Bool(true));
        }
        if !features.is_empty() {
            let features = features.iter().map(|feature| Value::from(*feature)).collect();
            entry.set("features", Value::List(features));
        }
        self.entries.push(entry);
    }

    /// Adds an event.
    pub fn event(&mut self, name: &str, args: TypeRef) {
        let args = self.name_of(args());
        self.entries.push(Value::map([
            ("name", Value::from(name)),
            ("meta-type", Value::from("event")),
            ("arg-type", Value::Str(args)),
        ]));
    }

    /// The reply of `query-qmp-schema`.
    pub fn finish(mut self) -> Value {
        self.entries.append(&mut self.types);
        Value::List(self.entries)
    }

    fn mask(&mut self) -> String {
        self.next += 1;
        (self.next - 1).to_string()
    }

    fn builtin(&mut self, name: &'static str, json: &str) -> String {
        if self.builtins.insert(name) {
            self.types.push(Value::map([
                ("name", Value::from(name)),
                ("json-type", Value::from(json)),
                ("meta-type", Value::from("builtin")),
            ]));
        }
        name.to_owned()
    }

    /// The masked name of a type, which is added at first use.
    fn name_of(&mut self, info: &'static TypeInfo) -> String {
        match info.kind {
            Kind::Null => return self.builtin("null", "null"),
            Kind::Bool => return self.builtin("bool", "boolean"),
            Kind::Int | Kind::Size => return self.builtin("int", "int"),
            Kind::Number => return self.builtin("number", "number"),
            Kind::Str => return self.builtin("str", "string"),
            Kind::Any => return self.builtin("any", "value"),
            Kind::Array(element) => return self.array(element()),
            _ => {}
        }
        let key = std::ptr::from_ref(info) as usize;
        if let Some(name) = self.masked.get(&key) {
            return name.clone();
        }
        let name = self.mask();
        self.masked.insert(key, name.clone());
        let entry = match info.kind {
            Kind::Enum(variants) => enum_entry(&name, variants.iter().map(|v| v.name)),
            Kind::Alternate(types) => self.alternate(&name, types),
            Kind::Struct(members) => self.object(&name, members),
            Kind::Union { tag, base, branches, content } => {
                self.union(&name, tag, base, branches, content)
            }
            Kind::OpenUnion { tag, base, family } => {
                let branches = self.families.get(family).cloned().unwrap_or_default();
                self.union(&name, tag, base, &branches, None)
            }
            _ => return name,
        };
        self.types.push(entry);
        name
    }

    fn array(&mut self, element: &'static TypeInfo) -> String {
        let inner = self.name_of(element);
        let name = format!("[{inner}]");
        let known = self.types.iter().any(|t| t.get("name").and_then(Value::as_str) == Some(&name));
        if !known {
            self.types.push(Value::map([
                ("name", Value::Str(name.clone())),
                ("element-type", Value::Str(inner)),
                ("meta-type", Value::from("array")),
            ]));
        }
        name
    }

    fn alternate(&mut self, name: &str, types: &'static [TypeRef]) -> Value {
        let members =
            types.iter().map(|ty| Value::map([("type", Value::Str(self.name_of(ty())))])).collect();
        Value::map([
            ("name", Value::from(name)),
            ("members", Value::List(members)),
            ("meta-type", Value::from("alternate")),
        ])
    }

    fn members(&mut self, members: &'static [Member], out: &mut Vec<Value>) {
        for member in members.iter().filter(|member| !member.flatten) {
            let mut entry = Value::map([
                ("name", Value::from(member.name)),
                ("type", Value::Str(self.name_of((member.ty)()))),
            ]);
            if member.optional || member.default.is_some() {
                entry.set("default", Value::Null);
            }
            if !member.features.is_empty() {
                let features = member.features.iter().map(|f| Value::from(*f)).collect();
                entry.set("features", Value::List(features));
            }
            out.push(entry);
        }
    }

    fn object(&mut self, name: &str, members: &'static [Member]) -> Value {
        let mut list = Vec::new();
        self.members(members, &mut list);
        let mut entry = Value::map([
            ("name", Value::from(name)),
            ("members", Value::List(Vec::new())),
            ("meta-type", Value::from("object")),
        ]);
        for member in members.iter().filter(|member| member.flatten) {
            self.flattened((member.ty)(), &mut list, &mut entry);
        }
        entry.set("members", Value::List(list));
        entry
    }

    fn flattened(&mut self, info: &'static TypeInfo, list: &mut Vec<Value>, entry: &mut Value) {
        match info.kind {
            Kind::Struct(members) => self.members(members, list),
            Kind::Union { tag, base, branches, content } => {
                let union = self.union("", tag, base, branches, content);
                list.extend(union.get("members").and_then(Value::as_list).unwrap_or(&[]).to_vec());
                for name in ["tag", "variants"] {
                    if let Some(value) = union.get(name) {
                        entry.set(name, value.clone());
                    }
                }
            }
            _ => {}
        }
    }

    fn union(
        &mut self,
        name: &str,
        tag: &'static str,
        base: &'static [Member],
        branches: &[(&'static str, TypeRef)],
        content: Option<&'static str>,
    ) -> Value {
        let mut list = Vec::new();
        self.members(base, &mut list);
        let words = self.mask();
        self.types.push(enum_entry(&words, branches.iter().map(|(case, _)| *case)));
        list.push(Value::map([("name", Value::from(tag)), ("type", Value::Str(words))]));
        let mut variants = Vec::new();
        for (case, ty) in branches {
            let mut branch = self.name_of(ty());
            if let Some(content) = content {
                let wrapper = self.mask();
                let member =
                    Value::map([("name", Value::from(content)), ("type", Value::Str(branch))]);
                self.types.push(Value::map([
                    ("name", Value::Str(wrapper.clone())),
                    ("members", Value::List(vec![member])),
                    ("meta-type", Value::from("object")),
                ]));
                branch = wrapper;
            }
            variants.push(Value::map([("case", Value::from(*case)), ("type", Value::Str(branch))]));
        }
        Value::map([
            ("name", Value::from(name)),
            ("members", Value::List(list)),
            ("tag", Value::from(tag)),
            ("variants", Value::List(variants)),
            ("meta-type", Value::from("object")),
        ])
    }
}

fn enum_entry<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Value {
    let words: Vec<&str> = words.collect();
    Value::map([
        ("name", Value::from(name)),
        (
            "members",
            Value::List(words.iter().map(|w| Value::map([("name", Value::from(*w))])).collect()),
        ),
        ("meta-type", Value::from("enum")),
        ("values", Value::List(words.iter().map(|w| Value::from(*w)).collect())),
    ])
}
