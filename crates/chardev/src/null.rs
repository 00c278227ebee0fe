//! Back end `null`: output vanishes, there is no input.

use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharReceiver};

use crate::common::Common;
use crate::table::{Chardev, Context, Kind};

/// Arguments of `null`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct NullArgs {
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

pub(crate) struct Null;

impl CharBackend for Null {
    fn send(&self, data: &[u8]) -> usize {
        data.len()
    }
    fn attach(&self, _: Weak<dyn CharReceiver>) {}
    fn accept_input(&self) {}
}

impl Chardev for Null {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "null".to_owned()
    }
}

impl Kind for NullArgs {
    const NAME: &'static str = "null";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, _: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        Ok(Arc::new(Null))
    }
}
