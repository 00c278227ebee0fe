//! What `secure=on` adds: memory, a serial port and a GPIO controller that only the
//! secure world reaches.

use device::IrqController;
use firmware::{Fdt, Prop};
use machine::Board;
use qapi::Value;

use super::{Plan, map, tree};

/// Creates them in the secure address space.
pub(super) fn create(
    plan: &Plan,
    board: &mut Board<'_>,
    irqs: &dyn IrqController,
) -> qapi::Result<()> {
    let (base, size) = map::SECURE_RAM;
    board.secure_ram("virt.secure-ram", base, size)?;
    let serial = board.config.serials.get(1).cloned().flatten();
    let uart = match serial {
        Some(id) => Value::map([("chardev", Value::from(id))]),
        None => Value::empty(),
    };
    let pulls = Value::map([("pullups", Value::from(0u64)), ("pulldowns", Value::from(0xffu64))]);
    for (slot, props) in [(&map::SECURE_UART, uart), (&map::SECURE_GPIO, pulls)] {
        let exists = slot.class != map::SECURE_GPIO.class || plan.version.secure_gpio;
        if exists && board.knows(slot.class) {
            board.place_secure(slot, props, irqs)?;
        }
    }
    power(board)
}

/// Lines 0 and 1 of the GPIO controller power off and restart the machine.
fn power(board: &mut Board<'_>) -> qapi::Result<()> {
    const CLASS: &str = "gpio-pwr";
    if !board.knows(CLASS) || board.record(map::SECURE_GPIO.name).is_none() {
        return Ok(());
    }
    let switch = board.device(CLASS, CLASS, Value::empty())?;
    let inputs = ["shutdown", "reset"].map(|name| switch.irq_in(name).cloned());
    let Some(gpio) = board.record(map::SECURE_GPIO.name) else { return Ok(()) };
    for (line, input) in inputs.into_iter().enumerate() {
        let out = gpio.irq_out(&format!("gpio{line}"));
        if let (Some(input), Some(out)) = (input, out) {
            out.connect(input.sink, 0);
        }
    }
    Ok(())
}

/// Says in a node that only the secure world may use it (secure.txt).
pub(super) fn mark(t: &mut Fdt, node: &str) {
    t.set(node, "status", Prop::str("disabled"));
    t.set(node, "secure-status", Prop::str("okay"));
}

/// The nodes.
pub(super) fn nodes(t: &mut Fdt, board: &Board<'_>, gpio: u32) {
    let (base, size) = map::SECURE_RAM;
    let ram = format!("/secram@{base:x}");
    t.set(&ram, "device_type", Prop::str("memory"));
    t.set(&ram, "reg", Prop::reg(&[base, size]));
    mark(t, &ram);
    if board.record(map::SECURE_UART.name).is_some() {
        let node = tree::primecell(t, &map::SECURE_UART, "pl011", &["uartclk", "apb_pclk"]);
        mark(t, &node);
        t.set("/aliases", "serial1", Prop::str(&node));
        t.set("/secure-chosen", "stdout-path", Prop::str(&node));
    }
    if board.record(map::SECURE_GPIO.name).is_none() {
        return;
    }
    let node = tree::primecell(t, &map::SECURE_GPIO, "pl061", &["apb_pclk"]);
    t.set(&node, "#gpio-cells", Prop::cell(2));
    t.set(&node, "gpio-controller", Prop::Empty);
    t.set(&node, "phandle", Prop::cell(gpio));
    mark(t, &node);
    for (name, line) in [("gpio-poweroff", 0), ("gpio-restart", 1)] {
        let node = format!("/{name}");
        t.set(&node, "compatible", Prop::str(name));
        t.set(&node, "gpios", Prop::Cells(vec![gpio, line, 0]));
        mark(t, &node);
    }
}
