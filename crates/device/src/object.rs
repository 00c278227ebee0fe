//! Objects that users create besides devices (`-object`, `object-add`).
//!
//! An object type is declared like a device type: a name, typed properties, a
//! constructor. What an object can do is found by type ([`Object::ability`]), so a
//! device that needs entropy asks for `Arc<dyn Entropy>` and knows no object type.
//! [`Objects`] holds them by id; who uses one keeps a [`Held`], and an object that
//! is held cannot be deleted. Source: QEMU's manual, "Generic object creation".

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;
use qapi::{Error, Qapi, Result, Source, TypeRef, Value};

use crate::services::Services;

/// An object type: what its file says about it.
pub trait ObjectType: Send + Sync + Sized + 'static {
    /// The name on the command line (`qom-type`).
    const NAME: &'static str;
    /// One line for help texts.
    const SUMMARY: &'static str;
    /// It must exist before character back ends and the machine are made.
    const EARLY: bool = true;
    /// Its properties: what `-object` accepts and prints.
    type Props: Qapi;
    /// Creates the object and tells `at` what it can do.
    fn create(props: Self::Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>>;
}

type CreateObject = fn(Value, Source, &mut ObjectBuild<'_>) -> Result<Arc<dyn Any + Send + Sync>>;

/// An object type as catalogs list it.
pub struct ObjectClass {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for help texts.
    pub summary: &'static str,
    /// Created before character back ends and the machine.
    pub early: bool,
    /// Type of the properties.
    pub props: TypeRef,
    create: CreateObject,
}

impl ObjectClass {
    /// The class of a type.
    #[must_use]
    pub const fn of<O: ObjectType>() -> ObjectClass {
        ObjectClass {
            name: O::NAME,
            summary: O::SUMMARY,
            early: O::EARLY,
            props: <O::Props as Qapi>::type_info,
            create: |value, source, at| {
                let props = <O::Props as Qapi>::from_value(value, source)?;
                at.props = props.to_value();
                let object: Arc<dyn Any + Send + Sync> = O::create(props, at)?;
                Ok(object)
            },
        }
    }
}

/// Given to an object while it is created.
pub struct ObjectBuild<'a> {
    id: &'a str,
    objects: &'a Objects,
    props: Value,
    offers: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl ObjectBuild<'_> {
    /// The object's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id
    }

    /// The objects made before, for references such as `keyid`.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        self.objects
    }

    /// What the host side offers of a type, such as the networks.
    #[must_use]
    pub fn service<T: Any + Clone + Send + Sync>(&self) -> Option<T> {
        self.objects.services.find()
    }

    /// Offers an ability by type, such as `Arc<dyn Entropy>`.
    pub fn offer<T: Any + Send + Sync>(&mut self, ability: T) {
        self.offers.insert(TypeId::of::<T>(), Arc::new(ability));
    }
}

type Set = dyn Fn(&str, &Value) -> Result<bool> + Send + Sync;

/// What changes properties of an object while it lives: takes a name and a value; `false`: that one
/// does not change.
#[derive(Clone)]
pub struct Setter(pub Arc<Set>);

type Get = dyn Fn(&str) -> Option<Value> + Send + Sync;

/// What tells properties of an object that change while it lives: takes a name; `None`: that one is
/// as it was given.
#[derive(Clone)]
pub struct Getter(pub Arc<Get>);

/// A created object.
pub struct Object {
    /// Its id.
    pub id: String,
    /// Its class.
    pub class: &'static ObjectClass,
    /// Its properties after defaults were filled in.
    pub props: Value,
    object: Arc<dyn Any + Send + Sync>,
    offers: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Object {
    /// An ability the object offered.
    #[must_use]
    pub fn ability<T: Any + Clone>(&self) -> Option<T> {
        self.offers.get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }

    /// The concrete object.
    #[must_use]
    pub fn downcast<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.object.clone().downcast().ok()
    }
}

/// Ability of an object that has a thread of the host: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(pub i64);

/// An ability of an object that cannot be deleted meanwhile.
#[derive(Clone)]
pub struct Held<T> {
    ability: T,
    object: Arc<Object>,
}

impl<T> Held<T> {
    /// The object.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.ability
    }
}

/// All objects by id.
#[derive(Default)]
pub struct Objects {
    list: Mutex<Vec<Arc<Object>>>,
    services: Services,
}

impl Objects {
    /// An empty table of objects that find these services.
    #[must_use]
    pub fn new(services: Services) -> Objects {
        Objects { list: Mutex::default(), services }
    }

    /// All objects in order of creation.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Object>> {
        self.list.lock().clone()
    }

    /// The object of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Object>> {
        self.list.lock().iter().find(|o| o.id == id).cloned()
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The id exists already; what the type says of its properties.
    pub fn add(
        &self,
        class: &'static ObjectClass,
        id: &str,
        props: Value,
        source: Source,
    ) -> Result<()> {
        if self.find(id).is_some() {
            let text =
                format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(Error::generic(text));
        }
        let mut at = ObjectBuild { id, objects: self, props: Value::Null, offers: HashMap::new() };
        let object = (class.create)(props, source, &mut at)?;
        let ObjectBuild { props, offers, .. } = at;
        let object = Object { id: id.to_owned(), class, props, object, offers };
        self.list.lock().push(Arc::new(object));
        Ok(())
    }

    /// Whether somebody holds an object.
    #[must_use]
    pub fn is_held(&self, id: &str) -> bool {
        self.list.lock().iter().any(|o| o.id == id && Arc::strong_count(o) > 1)
    }

    /// Deletes an object that nobody holds.
    ///
    /// # Errors
    /// There is none of that id, or it is in use.
    pub fn remove(&self, id: &str) -> Result<()> {
        let mut all = self.list.lock();
        let Some(index) = all.iter().position(|o| o.id == id) else {
            return Err(Error::generic(format!("object '{id}' not found")));
        };
        // One for this list.
        if all.get(index).is_some_and(|o| Arc::strong_count(o) > 1) {
            return Err(Error::generic(format!("object '{id}' is in use, can not be deleted")));
        }
        all.remove(index);
        Ok(())
    }

    /// An ability of the object that `property` names.
    ///
    /// # Errors
    /// There is no such object, or it cannot do that (`what` names the type that could).
    pub fn hold<T: Any + Clone>(&self, property: &str, id: &str, what: &str) -> Result<Held<T>> {
        let object = self.find(id).ok_or_else(|| Error::device_not_found(id))?;
        let ability = object.ability::<T>().ok_or_else(|| {
            Error::generic(format!("Invalid parameter type for '{property}', expected: {what}"))
        })?;
        Ok(Held { ability, object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u32);
    impl ObjectType for Number {
        const NAME: &'static str = "number";
        const SUMMARY: &'static str = "a number";
        type Props = u32;
        fn create(props: u32, at: &mut ObjectBuild<'_>) -> Result<Arc<Number>> {
            at.offer::<u32>(props);
            Ok(Arc::new(Number(props)))
        }
    }
    static NUMBER: ObjectClass = ObjectClass::of::<Number>();

    #[test]
    fn a_held_object_stays_and_ids_are_unique() {
        let objects = Objects::default();
        let add = |id| objects.add(&NUMBER, id, Value::Int(7), Source::Json);
        add("a").unwrap();
        assert!(add("a").is_err());
        let held = objects.hold::<u32>("n", "a", "number").unwrap();
        assert_eq!(*held, 7);
        assert_eq!(held.object().downcast::<Number>().unwrap().0, 7);
        assert!(objects.hold::<u64>("n", "a", "wide number").is_err());
        let error = objects.remove("a").unwrap_err();
        assert_eq!(error.desc, "object 'a' is in use, can not be deleted");
        drop(held);
        objects.remove("a").unwrap();
        assert_eq!(objects.remove("a").unwrap_err().desc, "object 'a' not found");
    }
}
