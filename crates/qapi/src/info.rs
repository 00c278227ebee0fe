//! What a type accepts: names, documentation, defaults, features.

use crate::{Source, Value, parse_int};

/// A type by name of a function, so that recursive types are legal.
pub type TypeRef = fn() -> &'static TypeInfo;

/// A type: its name, its documentation and its shape.
#[derive(Debug)]
pub struct TypeInfo {
    /// Name in help texts (`bool`, `uint16`, `size`, `ChardevBackend`).
    pub name: &'static str,
    /// Documentation, one paragraph.
    pub doc: &'static str,
    /// Shape.
    pub kind: Kind,
}

/// The shape of a type.
#[derive(Debug)]
pub enum Kind {
    /// Only `null`.
    Null,
    /// A truth value.
    Bool,
    /// An integer of any width.
    Int,
    /// A number of bytes, with suffixes in key=value text.
    Size,
    /// Any number.
    Number,
    /// A string.
    Str,
    /// Anything.
    Any,
    /// One of a list of words.
    Enum(&'static [Variant]),
    /// A list.
    Array(TypeRef),
    /// An object.
    Struct(&'static [Member]),
    /// One of several types, told apart by the JSON type.
    Alternate(&'static [TypeRef]),
    /// An object whose branch comes from a catalog at start-up.
    OpenUnion {
        /// Member that selects the branch.
        tag: &'static str,
        /// Members of every branch.
        base: &'static [Member],
        /// Name of the catalog.
        family: &'static str,
    },
    /// An object whose branch is selected by a member.
    Union {
        /// Member that selects the branch.
        tag: &'static str,
        /// Members of every branch.
        base: &'static [Member],
        /// Branches by tag value; a branch is a struct whose members lie beside the tag.
        branches: &'static [(&'static str, TypeRef)],
        /// Where set, the branch's members are not beside the tag but inside this member.
        content: Option<&'static str>,
    },
}

/// A member of an object.
#[derive(Debug)]
pub struct Member {
    /// Name.
    pub name: &'static str,
    /// Documentation.
    pub doc: &'static str,
    /// Type.
    pub ty: TypeRef,
    /// Default as a person would write it.
    pub default: Option<&'static str>,
    /// May be absent.
    pub optional: bool,
    /// Members of this type lie in the surrounding object.
    pub flatten: bool,
    /// QAPI features (`deprecated`, `unstable`).
    pub features: &'static [&'static str],
}

/// A word of an enumeration.
#[derive(Debug)]
pub struct Variant {
    /// The word.
    pub name: &'static str,
    /// Documentation.
    pub doc: &'static str,
}

impl TypeInfo {
    /// All members of an object type: own, flattened, and for a union its tag, then every branch.
    pub fn members(&self) -> Vec<&'static Member> {
        let mut all = Vec::new();
        self.collect(&mut all, 0);
        all
    }

    /// Whether the object type has a member of this name (in any branch).
    pub fn has_member(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    /// The member of this name (in any branch).
    pub fn member(&self, name: &str) -> Option<&'static Member> {
        self.members().into_iter().find(|member| member.name == name)
    }

    fn collect(&self, all: &mut Vec<&'static Member>, depth: u32) {
        if depth > 8 {
            return;
        }
        let mut add = |members: &'static [Member]| {
            for member in members {
                if member.flatten {
                    (member.ty)().collect(all, depth + 1);
                } else if !all.iter().any(|known| known.name == member.name) {
                    all.push(member);
                }
            }
        };
        match self.kind {
            Kind::Struct(members) => add(members),
            Kind::OpenUnion { base, .. } => add(base),
            Kind::Union { base, branches, content, .. } => {
                add(base);
                if content.is_none() {
                    for (_, branch) in branches {
                        branch().collect(all, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    /// The words of an enumeration.
    pub fn words(&self) -> Vec<&'static str> {
        match self.kind {
            Kind::Enum(variants) => variants.iter().map(|variant| variant.name).collect(),
            Kind::Union { branches, .. } => branches.iter().map(|(name, _)| *name).collect(),
            _ => Vec::new(),
        }
    }
}

impl TypeInfo {
    /// Whether a value has the JSON type of this type; tells the branches of an alternate apart.
    pub fn takes(&self, value: &Value, source: Source) -> bool {
        match (&self.kind, value) {
            (Kind::Any, _) | (Kind::Null, Value::Null) | (Kind::Bool, Value::Bool(_)) => true,
            (Kind::Int | Kind::Size | Kind::Number, Value::Int(_) | Value::Uint(_)) => true,
            (Kind::Number, Value::Float(_)) | (Kind::Array(_), Value::List(_)) => true,
            (Kind::Enum(words), Value::Str(text)) => words.iter().any(|word| word.name == text),
            (Kind::Str, Value::Str(_)) => true,
            (Kind::Int, Value::Str(text)) => source == Source::KeyVal && parse_int(text).is_some(),
            (Kind::Bool, Value::Str(text)) => {
                source == Source::KeyVal && matches!(text.as_str(), "on" | "off")
            }
            (Kind::Struct(_) | Kind::Union { .. } | Kind::OpenUnion { .. }, Value::Map(_)) => true,
            (Kind::Alternate(types), value) => types.iter().any(|ty| ty().takes(value, source)),
            _ => false,
        }
    }
}
