//! Back end `testdev`: lets a test program in the guest end the emulator.
//!
//! The guest writes decimal arguments followed by a letter; `Nq` ends the emulator with
//! status `2 N + 1`. There is no input. Source: the use that kvm-unit-tests make of it.

use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharReceiver, Request, RunControl};
use parking_lot::Mutex;

use crate::common::Common;
use crate::table::{Chardev, Context, Kind};

/// Digits that are kept.
const MAX_DIGITS: usize = 16;

/// Arguments of `testdev`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct TestdevArgs {
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

struct Testdev {
    run: Arc<dyn RunControl>,
    digits: Mutex<String>,
}

impl CharBackend for Testdev {
    fn send(&self, data: &[u8]) -> usize {
        let mut digits = self.digits.lock();
        for byte in data {
            match byte {
                b'0'..=b'9' if digits.len() < MAX_DIGITS => digits.push(char::from(*byte)),
                b'q' => {
                    let number: u64 = digits.parse().unwrap_or(0);
                    let status = number.wrapping_mul(2) | 1;
                    self.run.request(Request::Exit(status.to_le_bytes()[0]));
                    digits.clear();
                }
                _ => digits.clear(),
            }
        }
        data.len()
    }
    fn attach(&self, _: Weak<dyn CharReceiver>) {}
    fn accept_input(&self) {}
}

impl Chardev for Testdev {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "testdev".to_owned()
    }
}

impl Kind for TestdevArgs {
    const NAME: &'static str = "testdev";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        Ok(Arc::new(Testdev { run: context.run.clone(), digits: Mutex::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Run(Mutex<Vec<Request>>);
    impl RunControl for Run {
        fn request(&self, request: Request) {
            self.0.lock().push(request);
        }
    }

    #[test]
    fn q_ends_with_the_number_before_it() {
        let run = Arc::new(Run::default());
        let dev = Testdev { run: run.clone(), digits: Mutex::default() };
        dev.send(b"x12");
        dev.send(b"q0q9999999999999999999q");
        let codes = run.0.lock().clone();
        assert_eq!(codes[..2], [Request::Exit(25), Request::Exit(1)]);
    }
}
