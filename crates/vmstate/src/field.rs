//! What a member of a record can be.

use std::collections::VecDeque;

use crate::{LoadError, StateReader, StateSchema, StateWriter, VmState, tag};

/// Bound on the elements of a list that states none.
const DEFAULT_MAX: usize = 1 << 20;

/// A value that can be saved as a member of a record.
pub trait Field: Sized {
    /// The type as schemas print it.
    fn kind() -> String;

    /// Writes the value.
    fn save(&self, w: &mut StateWriter);

    /// Reads a value; `max` bounds the elements of a list.
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError>;

    /// The schema of a record inside.
    fn nested() -> Option<&'static StateSchema> {
        None
    }

    /// Writes a list.
    fn save_list<'a>(items: &mut dyn ExactSizeIterator<Item = &'a Self>, w: &mut StateWriter)
    where
        Self: 'a,
    {
        w.byte(tag::LIST);
        w.length(items.len());
        for item in items {
            item.save(w);
        }
    }

    /// Reads a list of at most `max` elements.
    fn load_list(r: &mut StateReader<'_>, max: usize) -> Result<Vec<Self>, LoadError> {
        r.tag(tag::LIST, "a list")?;
        let count = bounded(r.length()?, max)?;
        if count > r.remaining() {
            return Err(LoadError::Truncated); // an element has at least its tag
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(Self::load(r, None)?);
        }
        Ok(items)
    }
}

fn bounded(found: usize, limit: usize) -> Result<usize, LoadError> {
    if found > limit { Err(LoadError::TooLong { found, limit }) } else { Ok(found) }
}

impl<T: VmState> Field for T {
    fn kind() -> String {
        T::schema().name.to_owned()
    }
    fn save(&self, w: &mut StateWriter) {
        w.record(T::schema(), |w| VmState::save(self, w));
    }
    fn load(r: &mut StateReader<'_>, _: Option<usize>) -> Result<Self, LoadError> {
        r.record(T::schema(), |r, version| {
            let value = <T as VmState>::load(r, version)?;
            value.validate()?;
            Ok(value)
        })
    }
    fn nested() -> Option<&'static StateSchema> {
        Some(T::schema())
    }
}

impl Field for bool {
    fn kind() -> String {
        "bool".into()
    }
    fn save(&self, w: &mut StateWriter) {
        w.byte(tag::BOOL);
        w.byte(u8::from(*self));
    }
    fn load(r: &mut StateReader<'_>, _: Option<usize>) -> Result<Self, LoadError> {
        r.tag(tag::BOOL, "a boolean")?;
        match r.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(LoadError::Invalid("a boolean is neither 0 nor 1")),
        }
    }
}

macro_rules! save_load_int {
    ($ty:ty, $width:expr) => {
        fn kind() -> String {
            stringify!($ty).into()
        }
        fn save(&self, w: &mut StateWriter) {
            w.byte(tag::INT);
            w.byte($width);
            w.raw(&self.to_le_bytes());
        }
        fn load(r: &mut StateReader<'_>, _: Option<usize>) -> Result<Self, LoadError> {
            r.tag(tag::INT, stringify!($ty))?;
            r.tag($width, stringify!($ty))?;
            let bytes = r.raw(size_of::<$ty>())?.try_into();
            Ok(<$ty>::from_le_bytes(bytes.map_err(|_| LoadError::Truncated)?))
        }
    };
}

macro_rules! integers {
    ($($ty:ty: $width:expr),*) => {$(
        impl Field for $ty {
            save_load_int!($ty, $width);
        }
    )*};
}

const SIGNED: u8 = 0x80;
integers!(u16: 2, u32: 4, u64: 8, u128: 16);
integers!(i8: SIGNED | 1, i16: SIGNED | 2, i32: SIGNED | 4, i64: SIGNED | 8);

impl Field for u8 {
    save_load_int!(u8, 1);

    fn save_list<'a>(items: &mut dyn ExactSizeIterator<Item = &'a Self>, w: &mut StateWriter)
    where
        Self: 'a,
    {
        w.byte(tag::BYTES);
        w.length(items.len());
        for item in items {
            w.byte(*item);
        }
    }
    fn load_list(r: &mut StateReader<'_>, max: usize) -> Result<Vec<Self>, LoadError> {
        r.tag(tag::BYTES, "bytes")?;
        let count = bounded(r.length()?, max)?;
        r.raw(count).map(<[u8]>::to_vec)
    }
}

impl Field for String {
    fn kind() -> String {
        "string".into()
    }
    fn save(&self, w: &mut StateWriter) {
        u8::save_list(&mut self.as_bytes().iter(), w);
    }
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError> {
        let bytes = u8::load_list(r, max.unwrap_or(DEFAULT_MAX))?;
        Self::from_utf8(bytes).map_err(|_| LoadError::Invalid("a string is not UTF-8"))
    }
}

impl<T: Field> Field for Option<T> {
    fn kind() -> String {
        format!("option {}", T::kind())
    }
    fn save(&self, w: &mut StateWriter) {
        match self {
            Some(value) => {
                w.byte(tag::SOME);
                value.save(w);
            }
            None => w.byte(tag::NONE),
        }
    }
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError> {
        if r.presence()? { T::load(r, max).map(Some) } else { Ok(None) }
    }
    fn nested() -> Option<&'static StateSchema> {
        T::nested()
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    fn kind() -> String {
        format!("[{}; {N}]", T::kind())
    }
    fn save(&self, w: &mut StateWriter) {
        T::save_list(&mut self.iter(), w);
    }
    fn load(r: &mut StateReader<'_>, _: Option<usize>) -> Result<Self, LoadError> {
        let items = T::load_list(r, N)?;
        items.try_into().map_err(|_| LoadError::Invalid("an array has too few elements"))
    }
    fn nested() -> Option<&'static StateSchema> {
        T::nested()
    }
}

impl<T: Field> Field for Box<[T]> {
    fn kind() -> String {
        format!("list of {}", T::kind())
    }
    fn save(&self, w: &mut StateWriter) {
        T::save_list(&mut self.iter(), w);
    }
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError> {
        Ok(T::load_list(r, max.unwrap_or(DEFAULT_MAX))?.into())
    }
    fn nested() -> Option<&'static StateSchema> {
        T::nested()
    }
}

impl<T: Field> Field for Vec<T> {
    fn kind() -> String {
        format!("list of {}", T::kind())
    }
    fn save(&self, w: &mut StateWriter) {
        T::save_list(&mut self.iter(), w);
    }
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError> {
        T::load_list(r, max.unwrap_or(DEFAULT_MAX))
    }
    fn nested() -> Option<&'static StateSchema> {
        T::nested()
    }
}

impl<T: Field> Field for VecDeque<T> {
    fn kind() -> String {
        format!("list of {}", T::kind())
    }
    fn save(&self, w: &mut StateWriter) {
        T::save_list(&mut self.iter(), w);
    }
    fn load(r: &mut StateReader<'_>, max: Option<usize>) -> Result<Self, LoadError> {
        Ok(T::load_list(r, max.unwrap_or(DEFAULT_MAX))?.into())
    }
    fn nested() -> Option<&'static StateSchema> {
        T::nested()
    }
}

macro_rules! tuples {
    ($($name:ident $at:tt),*; $count:literal) => {
        impl<$($name: Field),*> Field for ($($name,)*) {
            fn kind() -> String {
                format!("({})", [$($name::kind()),*].join(", "))
            }
            fn save(&self, w: &mut StateWriter) {
                w.byte(tag::LIST);
                w.length($count);
                $(self.$at.save(w);)*
            }
            fn load(r: &mut StateReader<'_>, _: Option<usize>) -> Result<Self, LoadError> {
                r.tag(tag::LIST, "a tuple")?;
                if r.length()? != $count {
                    return Err(LoadError::Invalid("a tuple has the wrong length"));
                }
                Ok(($($name::load(r, None)?,)*))
            }
        }
    };
}
tuples!(A 0, B 1; 2);
tuples!(A 0, B 1, C 2; 3);
