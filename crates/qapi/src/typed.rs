//! [`Qapi`]: the bridge between a [`Value`] and a Rust type, for the built-in types.

use crate::{Error, Kind, Result, Size, Source, TypeInfo, Value, parse_int, parse_size};

/// A type that control interfaces can say.
pub trait Qapi: Sized + Send + 'static {
    /// Describes the type.
    fn type_info() -> &'static TypeInfo;

    /// Checks and converts. Errors name the member relative to this type.
    fn from_value(value: Value, source: Source) -> Result<Self>;

    /// Converts back.
    fn to_value(&self) -> Value;

    /// What an absent member of this type means; `None`: it must be there.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether a member of this type is written at all.
    fn is_present(&self) -> bool {
        true
    }
}

/// Takes the member `name` out of `members` and converts it; `default` is the text that stands
/// for an absent member. Used by the derive.
pub fn take_member<T: Qapi>(
    members: &mut Vec<(String, Value)>,
    name: &str,
    default: Option<&str>,
    source: Source,
) -> Result<T> {
    if let Some(at) = members.iter().position(|(key, _)| key == name) {
        let value = members.remove(at).1;
        return T::from_value(value, source).map_err(|error| error.within(name));
    }
    match default {
        Some(text) => T::from_value(Value::from(text), Source::KeyVal).map_err(|e| e.within(name)),
        None => T::absent().ok_or_else(|| Error::missing(name)),
    }
}

/// Takes the members that a type knows out of `members`, as an object. Used by the derive.
pub fn take_known(members: &mut Vec<(String, Value)>, info: &TypeInfo) -> Value {
    Value::Map(members.extract_if(.., |(name, _)| info.has_member(name)).collect())
}

impl Qapi for () {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "q_empty", doc: "", kind: Kind::Struct(&[]) };
        &INFO
    }
    fn from_value(value: Value, _: Source) -> Result<Self> {
        match value {
            Value::Map(members) => match members.first() {
                None => Ok(()),
                Some((name, _)) => Err(Error::unexpected(name)),
            },
            _ => Err(Error::wrong_type("", "object")),
        }
    }
    fn to_value(&self) -> Value {
        Value::empty()
    }
}

impl Qapi for Value {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "any", doc: "", kind: Kind::Any };
        &INFO
    }
    fn from_value(value: Value, _: Source) -> Result<Self> {
        Ok(value)
    }
    fn to_value(&self) -> Value {
        self.clone()
    }
}

impl Qapi for bool {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "bool", doc: "", kind: Kind::Bool };
        &INFO
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        match (value, source) {
            (Value::Bool(truth), _) => Ok(truth),
            (Value::Str(text), Source::KeyVal) => match text.as_str() {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(Error::expects("", "'on' or 'off'")),
            },
            _ => Err(Error::wrong_type("", "boolean")),
        }
    }
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Qapi for String {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "str", doc: "", kind: Kind::Str };
        &INFO
    }
    fn from_value(value: Value, _: Source) -> Result<Self> {
        match value {
            Value::Str(text) => Ok(text),
            _ => Err(Error::wrong_type("", "string")),
        }
    }
    fn to_value(&self) -> Value {
        Value::Str(self.clone())
    }
}

impl Qapi for f64 {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "number", doc: "", kind: Kind::Number };
        &INFO
    }
    #[expect(clippy::cast_precision_loss, reason = "QAPI numbers are doubles")]
    fn from_value(value: Value, source: Source) -> Result<Self> {
        match (value, source) {
            (Value::Float(number), _) => Ok(number),
            (Value::Int(number), _) => Ok(number as Self),
            (Value::Uint(number), _) => Ok(number as Self),
            (Value::Str(text), Source::KeyVal) => match text.parse::<Self>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => Err(Error::expects("", "number")),
            },
            _ => Err(Error::wrong_type("", "number")),
        }
    }
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
}

impl Qapi for Size {
    fn type_info() -> &'static TypeInfo {
        static INFO: TypeInfo = TypeInfo { name: "size", doc: "", kind: Kind::Size };
        &INFO
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        match (value, source) {
            (Value::Str(text), Source::KeyVal) => parse_size(&text, 1).map(Self).ok_or_else(|| {
                Error::expects("", "a size value")
                    .with_hint("A size is a number with an optional suffix B, K, M, G, T, P or E.")
            }),
            (value, _) => value.as_u64().map(Self).ok_or_else(|| Error::expects("", "uint64")),
        }
    }
    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

macro_rules! integers {
    ($($ty:ty, $name:literal, $wide:literal, $range:literal;)*) => {$(
        impl Qapi for $ty {
            fn type_info() -> &'static TypeInfo {
                static INFO: TypeInfo = TypeInfo { name: $name, doc: "", kind: Kind::Int };
                &INFO
            }
            fn from_value(value: Value, source: Source) -> Result<Self> {
                let number = match (value, source) {
                    (Value::Int(number), _) => i128::from(number),
                    (Value::Uint(number), _) => i128::from(number),
                    (Value::Str(text), Source::KeyVal) => {
                        parse_int(&text).ok_or_else(|| Error::expects("", "integer"))?
                    }
                    _ => return Err(not_an_integer($wide)),
                };
                Self::try_from(number).map_err(|_| Error::expects("", $range))
            }
            fn to_value(&self) -> Value {
                u64::try_from(*self).map_or_else(|_| Value::Int(*self as i64), Value::from)
            }
        }
    )*};
}

/// JSON of another type where an integer belongs: QEMU words it by signedness.
fn not_an_integer(wide: &str) -> Error {
    match wide {
        "integer" => Error::wrong_type("", "integer"),
        _ => Error::expects("", wide),
    }
}

#[expect(clippy::allow_attributes, reason = "needed for some widths only")]
#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::cast_possible_wrap,
    clippy::unnecessary_cast,
    trivial_numeric_casts,
    reason = "one macro for all widths"
)]
mod integers {
    use super::*;
    integers! {
        u8, "uint8", "uint64", "uint8_t";
        u16, "uint16", "uint64", "uint16_t";
        u32, "uint32", "uint64", "uint32_t";
        u64, "uint64", "uint64", "uint64";
        i8, "int8", "integer", "int8_t";
        i16, "int16", "integer", "int16_t";
        i32, "int32", "integer", "int32_t";
        i64, "int", "integer", "int64";
    }
}

impl<T: Qapi> Qapi for Option<T> {
    fn type_info() -> &'static TypeInfo {
        T::type_info()
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        T::from_value(value, source).map(Some)
    }
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn is_present(&self) -> bool {
        self.is_some()
    }
}

impl<T: Qapi> Qapi for Box<T> {
    fn type_info() -> &'static TypeInfo {
        T::type_info()
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        T::from_value(value, source).map(Self::new)
    }
    fn to_value(&self) -> Value {
        T::to_value(self)
    }
    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
    fn is_present(&self) -> bool {
        T::is_present(self)
    }
}

/// Carries the type information of a list.
pub struct Array<T>(std::marker::PhantomData<T>);

impl<T: Qapi> Array<T> {
    /// Type information of a list of `T`.
    pub const INFO: &'static TypeInfo =
        &TypeInfo { name: "list", doc: "", kind: Kind::Array(T::type_info) };
}

impl<T: Qapi> Qapi for Vec<T> {
    fn type_info() -> &'static TypeInfo {
        Array::<T>::INFO
    }
    fn from_value(value: Value, source: Source) -> Result<Self> {
        let elements = match value {
            Value::List(elements) => elements,
            // One scalar stands for a list of one in key=value text.
            Value::Str(text) if source == Source::KeyVal => vec![Value::Str(text)],
            _ => return Err(Error::wrong_type("", "array")),
        };
        let element = |(at, value)| {
            T::from_value(value, source).map_err(|error: Error| error.within(&format!("[{at}]")))
        };
        elements.into_iter().enumerate().map(element).collect()
    }
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(T::to_value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Qapi>(text: &str) -> std::result::Result<T, String> {
        T::from_value(Value::from(text), Source::KeyVal).map_err(|e| e.within("x").desc)
    }

    fn json<T: Qapi>(value: Value) -> std::result::Result<T, String> {
        T::from_value(value, Source::Json).map_err(|e| e.within("x").desc)
    }

    #[test]
    fn text_becomes_numbers_only_in_keyval() {
        assert_eq!(text::<u16>("0x10"), Ok(16));
        assert_eq!(text::<u16>("99999"), Err("Parameter 'x' expects uint16_t".into()));
        assert_eq!(text::<u8>("abc"), Err("Parameter 'x' expects integer".into()));
        assert_eq!(json::<u8>(Value::from("5")), Err("Parameter 'x' expects uint64".into()));
        let want = "Invalid parameter type for 'x', expected: integer";
        assert_eq!(json::<i64>(Value::from("5")), Err(want.into()));
        assert_eq!(json::<i64>(Value::Float(1.5)), Err(want.into()));
        assert_eq!(text::<bool>("zz"), Err("Parameter 'x' expects 'on' or 'off'".into()));
        assert_eq!(text::<Size>("2G"), Ok(Size(2 << 30)));
    }

    #[test]
    fn integers_survive_the_round_trip() {
        for number in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(json::<i64>(number.to_value()), Ok(number));
        }
        assert_eq!(json::<u64>(u64::MAX.to_value()), Ok(u64::MAX));
    }
}
