//! `-numa`: options of nodes, taken when CPUs and machine are known.

use machine::numa::{Limits, Numa};
use machine::{MachineClass, MachineConfig};
use qapi::{Source, Value, keyval::Dialect};

use crate::{
    fail::{self, At as _, Step},
    settings::Placed,
};

/// Adds the nodes of all options to the configuration.
pub(crate) fn add(
    program: &str,
    given: &[Placed],
    class: &MachineClass,
    config: &mut MachineConfig,
) -> Step<()> {
    let topology = config.topology();
    let max_cpus = config.max_cpus.max(config.cpus).max(1);
    let limits = Limits { topology, max_cpus, by_size: class.nodes_by_size, hmat: config.hmat };
    let mut numa = Numa::default();
    for option in given {
        if !class.takes_nodes {
            let error = qapi::Error::generic("NUMA is not supported by this machine-type");
            return Err(error).at(&option.place);
        }
        if let Some(warning) = one(&mut numa, &option.value, limits).at(&option.place)? {
            fail::say(&format!("{program}: {}: warning: {warning}\n", option.place));
        }
    }
    config.numa = numa;
    Ok(())
}

/// One option; `cpus=` may be there several times.
fn one(numa: &mut Numa, text: &str, limits: Limits) -> qapi::Result<Option<&'static str>> {
    if text.starts_with('{') {
        let mut value = qapi::json::from_str(text)?;
        let kind = kind(&mut value)?;
        let cpus = match value.take("cpus") {
            Some(Value::List(list)) => {
                list.iter().filter_map(Value::as_u64).map(|n| n.to_string()).collect()
            }
            _ => Vec::new(),
        };
        return numa.add(&kind, (value, Source::Json), &cpus, limits);
    }
    let (cpus, rest): (Vec<&str>, Vec<&str>) =
        text.split(',').partition(|part| part.starts_with("cpus="));
    let cpus: Vec<String> =
        cpus.iter().filter_map(|part| part.strip_prefix("cpus=")).map(str::to_owned).collect();
    let mut value = Dialect::flat(Some("type")).parse(&rest.join(","))?.value;
    let kind = kind(&mut value)?;
    numa.add(&kind, (value, Source::KeyVal), &cpus, limits)
}

fn kind(value: &mut Value) -> qapi::Result<String> {
    match value.take("type") {
        Some(Value::Str(kind)) => Ok(kind),
        _ => Err(qapi::Error::missing("type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Topology;

    #[test]
    fn cpus_may_be_given_several_times() {
        let topology = Topology { sockets: 1, clusters: 1, cores: 4, threads: 1 };
        let limits = Limits { topology, max_cpus: 4, by_size: true, hmat: false };
        let mut numa = Numa::default();
        one(&mut numa, "node,cpus=0,cpus=2-3,mem=1G", limits).unwrap();
        one(&mut numa, "{\"type\": \"node\", \"cpus\": [1]}", limits).unwrap();
        let nodes: Vec<_> = (0..4).map(|i| numa.node_of(i, topology)).collect();
        assert_eq!(nodes, [Some(0), Some(1), Some(0), Some(0)]);
        assert!(one(&mut numa, "node,cpus=", limits).is_err());
        assert!(one(&mut numa, "", limits).is_err());
        assert!(one(&mut numa, "cpu,cpus=1", limits).is_err());
    }
}
