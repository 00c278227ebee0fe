//! Records, and their face towards devices.

use parking_lot::{Mutex, RwLock};

use crate::{LoadError, StateReader, StateSchema, StateWriter};

/// A register struct that is saved as a record. Derived.
pub trait VmState: Sized {
    /// Name, versions and members.
    fn schema() -> &'static StateSchema;

    /// Writes the members.
    fn save(&self, w: &mut StateWriter);

    /// Reads the members of a record of the given version.
    fn load(r: &mut StateReader<'_>, version: u32) -> Result<Self, LoadError>;

    /// Checks what the types cannot, before the value replaces the old one.
    fn validate(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// Object-safe face of a record that lives in a device.
pub trait Saved: Send + Sync {
    /// Name, versions and members.
    fn schema(&self) -> &'static StateSchema;

    /// Writes the members.
    fn save(&self, w: &mut StateWriter);

    /// Reads the members and replaces the state; on an error the old state stays.
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError>;
}

impl<T: VmState + Send> Saved for Mutex<T> {
    fn schema(&self) -> &'static StateSchema {
        T::schema()
    }
    fn save(&self, w: &mut StateWriter) {
        self.lock().save(w);
    }
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let state = T::load(r, version)?;
        state.validate()?;
        *self.lock() = state;
        Ok(())
    }
}

impl<T: VmState + Send + Sync> Saved for RwLock<T> {
    fn schema(&self) -> &'static StateSchema {
        T::schema()
    }
    fn save(&self, w: &mut StateWriter) {
        self.read().save(w);
    }
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let state = T::load(r, version)?;
        state.validate()?;
        *self.write() = state;
        Ok(())
    }
}

/// What a device says about its saved state.
pub enum Migration<'a> {
    /// It has none.
    Stateless,
    /// It is one record.
    Saved(&'a dyn Saved),
    /// It is several named records.
    Parts(Vec<(&'static str, &'a dyn Saved)>),
    /// It cannot be saved, and why.
    Blocked(&'static str),
}

static PART: StateSchema = StateSchema { name: "part", version: 1, min_version: 1, fields: &[] };

impl Migration<'_> {
    /// Writes all records; `Err` is why the device cannot be saved.
    pub fn write(&self, w: &mut StateWriter) -> Result<(), &'static str> {
        match self {
            Self::Stateless => {}
            Self::Saved(saved) => w.record(saved.schema(), |w| saved.save(w)),
            Self::Parts(parts) => {
                for (name, saved) in parts {
                    w.record(&StateSchema { name, fields: &[], ..PART }, |w| {
                        w.record(saved.schema(), |w| saved.save(w));
                    });
                }
            }
            Self::Blocked(why) => return Err(why),
        }
        Ok(())
    }

    /// Reads what [`Migration::write`] wrote; on an error every record has its old state.
    pub fn read(&self, r: &mut StateReader<'_>) -> Result<(), LoadError> {
        match self {
            Self::Stateless => Ok(()),
            Self::Saved(saved) => r.record(saved.schema(), |r, version| saved.load(r, version)),
            Self::Parts(parts) => {
                let mut before = StateWriter::new();
                _ = self.write(&mut before);
                let before = before.into_bytes();
                let result = read_parts(parts, r);
                if result.is_err() {
                    _ = read_parts(parts, &mut StateReader::new(&before));
                }
                result
            }
            Self::Blocked(_) => Err(LoadError::Invalid("this device cannot be loaded")),
        }
    }

    /// The schemas as text, for golden files.
    pub fn dump(&self) -> String {
        match self {
            Self::Stateless => "stateless\n".into(),
            Self::Saved(saved) => saved.schema().dump(),
            Self::Parts(parts) => parts
                .iter()
                .map(|(name, saved)| format!("part {name}\n{}", saved.schema().dump()))
                .collect(),
            Self::Blocked(why) => format!("blocked: {why}\n"),
        }
    }
}

fn read_parts(
    parts: &[(&'static str, &dyn Saved)],
    r: &mut StateReader<'_>,
) -> Result<(), LoadError> {
    for (name, saved) in parts {
        r.record(&StateSchema { name, fields: &[], ..PART }, |r, _| {
            r.record(saved.schema(), |r, version| saved.load(r, version))
        })?;
    }
    Ok(())
}
