//! The bridge to crate `machine`.

use std::sync::Arc;

use vmm::{Execution, Machine, MachineListing, NoExecution};

use crate::{
    fail::{Step, Stop},
    settings::Settings,
};

/// Machines besides `none`.
pub(crate) fn machines() -> Vec<MachineListing> {
    Vec::new()
}

/// Creates the machine.
pub(crate) fn create(name: &str, settings: &Settings) -> Step<(Machine, Arc<dyn Execution>)> {
    if let Some((property, _)) = settings.machine_props.first() {
        return Err(Stop::new(format!("Property '{name}-machine.{property}' not found")));
    }
    Ok((Machine::none(), Arc::new(NoExecution)))
}
