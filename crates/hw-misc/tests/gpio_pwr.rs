//! Power-off and reset by GPIO lines, on the bench.

use device::{Cause, Request};
use hw_misc::gpio_pwr::CLASS;
use testbench::Bench;

#[test]
fn rising_lines_ask_the_machine() {
    let b = Bench::of(&CLASS, "");
    b.drive("shutdown", 0, true);
    b.drive("shutdown", 0, false);
    b.drive("reset", 0, true);
    let want = [Request::Shutdown(Cause::GuestShutdown), Request::Reset(Cause::GuestReset)];
    assert_eq!(b.requests(), want);
}
