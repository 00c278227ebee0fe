//! The shape of saved states against stored text: a change that would break old states shows as
//! a diff. `UPDATE_GOLDEN=1` writes the text anew; a change needs a new version of its record.

use std::fmt::Write as _;
use std::path::Path;

use testbench::Bench;
use vmstate::Migration;

fn schema(name: &str) -> String {
    let class = catalog::DEVICES.iter().find(|class| class.name == name).unwrap();
    let bench = Bench::of(class, "");
    let mut text = format!("{name}\n");
    match bench.record.device.migration() {
        Migration::Stateless => text.push_str("stateless\n"),
        Migration::Blocked(why) => _ = writeln!(text, "blocked: {why}"),
        Migration::Saved(part) => text.push_str(&part.schema().dump()),
        Migration::Parts(parts) => {
            for (part, saved) in parts {
                _ = write!(text, "part {part}\n{}", saved.schema().dump());
            }
        }
    }
    text
}

#[test]
fn schemas_are_the_stored_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/devices.schemas");
    let now: String = catalog::DEVICES.iter().map(|class| schema(class.name) + "\n").collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    for (now, stored) in now.lines().zip(stored.lines()) {
        assert_eq!(now, stored);
    }
    assert_eq!(now, stored);
}
