//! `query-cpu-model-expansion`.

use derive::Qapi;
use qapi::{Error, Result, Value};

use super::QmpCommand;
use crate::Vm;

/// A CPU model with properties.
#[derive(Qapi)]
pub(super) struct CpuModelInfo {
    /// Its name.
    name: String,
    /// Properties that differ from the model's own.
    props: Option<Value>,
}

/// How far a model is expanded.
#[derive(Clone, Copy, PartialEq, Qapi)]
pub(super) enum CpuModelExpansionType {
    /// To a model that never changes.
    Static,
    /// To all its properties.
    Full,
}

/// An expanded model.
#[derive(Qapi)]
pub(super) struct CpuModelExpansionInfo {
    /// The model.
    model: CpuModelInfo,
}

/// Tell the properties of a CPU model.
#[derive(Qapi)]
pub(super) struct QueryCpuModelExpansion {
    /// How far.
    r#type: CpuModelExpansionType,
    /// Which model.
    model: CpuModelInfo,
}

/// A property as `-cpu` would be given it.
fn text(name: &str, value: &Value) -> Result<(String, String)> {
    let text = match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Str(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        _ => return Err(Error::wrong_type(&format!("model.props.{name}"), "boolean")),
    };
    Ok((name.to_owned(), text))
}

impl QmpCommand for QueryCpuModelExpansion {
    const NAME: &'static str = "query-cpu-model-expansion";
    type Returns = CpuModelExpansionInfo;
    fn run(self, vm: &Vm) -> Result<CpuModelExpansionInfo> {
        let name = self.model.name;
        if !vm.listing.cpus.iter().any(|cpu| cpu.name == name) {
            let text = match name.as_str() {
                "host" => "The CPU type 'host' requires KVM".to_owned(),
                name => format!("CPU model '{name}' not found"),
            };
            return Err(Error::generic(text));
        }
        if self.r#type == CpuModelExpansionType::Static {
            return Err(Error::generic("The requested expansion type is not supported"));
        }
        let asked = self.model.props.unwrap_or(Value::empty());
        let Some(asked) = asked.as_map() else {
            return Err(Error::wrong_type("model.props", "object"));
        };
        let asked: Vec<_> = asked.iter().map(|(n, v)| text(n, v)).collect::<Result<_>>()?;
        let expanded = vm.listing.guest.and_then(|guest| guest.expand(&name, &asked));
        let expanded =
            expanded.ok_or_else(|| Error::generic(format!("CPU model '{name}' not found")))??;
        let props = Value::map(expanded.into_iter().map(|(n, on)| (n, Value::Bool(on))));
        let model = CpuModelInfo { name, props: Some(props) };
        Ok(CpuModelExpansionInfo { model })
    }
}
