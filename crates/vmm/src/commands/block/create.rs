//! `blockdev-create`: the options of each format, as the names that formats know.
//!
//! `file` makes a file of the host; `qcow2` and `luks` write to a node that is named, or opened
//! for this from its options. Not built: data files of qcow2, other formats.

use std::sync::Arc;

use block::{Creation, Graph, Node};
use block_jobs::create::{Creating, Target};
use block_jobs::{JobType, OnJobError, Spec};
use derive::Qapi;
use qapi::{Error, Result, Source, Value};

use super::super::QmpCommand;
use super::graph;
use super::jobs::jobs;
use crate::Vm;

/// Make an image.
#[derive(Qapi)]
pub(crate) struct BlockdevCreate {
    /// The job's id.
    job_id: String,
    /// What is made.
    options: Value,
}

/// Members of `qcow2` and the names that the format knows; those with `encrypt` come apart.
const QCOW2: &[(&str, &str)] = &[
    ("backing-file", "backing_file"),
    ("backing-fmt", "backing_fmt"),
    ("cluster-size", "cluster_size"),
    ("compression-type", "compression_type"),
    ("extended-l2", "extended_l2"),
    ("lazy-refcounts", "lazy_refcounts"),
    ("preallocation", "preallocation"),
    ("refcount-bits", "refcount_bits"),
    ("version", "compat"),
];
const LUKS: &[&str] = &[
    "key-secret",
    "cipher-alg",
    "cipher-mode",
    "ivgen-alg",
    "ivgen-hash-alg",
    "hash-alg",
    "iter-time",
];

fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Str(text) => text.clone(),
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::Int(n) => n.to_string(),
        other => other.as_u64()?.to_string(),
    })
}

fn take(options: &mut Value, name: &str) -> Result<Option<String>> {
    let Some(value) = options.take(name) else { return Ok(None) };
    text(&value).map(Some).ok_or_else(|| Error::wrong_type(&format!("options.{name}"), "string"))
}

fn required(options: &mut Value, name: &str) -> Result<Value> {
    options.take(name).ok_or_else(|| Error::missing(&format!("options.{name}")))
}

/// Sizes and numbers come from JSON; a size that is too large makes the image fail, not the command.
fn size(options: &mut Value) -> Result<u64> {
    match required(options, "size")? {
        Value::Int(n) => Ok(u64::try_from(n).unwrap_or(u64::MAX)),
        other => other.as_u64().ok_or_else(|| Error::wrong_type("options.size", "integer")),
    }
}

fn node_of(graph: &Graph, value: Value) -> Result<Arc<Node>> {
    match value {
        Value::Str(name) => graph.find(&name).ok_or_else(|| {
            Error::generic(format!("Cannot find device='{name}' nor node-name='{name}'"))
        }),
        value => graph.open(value, Source::Json, block::Flags::default()),
    }
}

fn of_qcow2(options: &mut Value, image: &mut Creation) -> Result<()> {
    for (theirs, ours) in QCOW2 {
        if let Some(value) = take(options, theirs)? {
            image.options.push(((*ours).to_owned(), value));
        }
    }
    if let Some(mut encrypt) = options.take("encrypt") {
        for name in LUKS.iter().chain(&["format"]) {
            if let Some(value) = take(&mut encrypt, name)? {
                image.options.push((format!("encrypt.{name}"), value));
            }
        }
    }
    if options.get("data-file").is_some() || options.get("data-file-raw").is_some() {
        return Err(Error::generic("data-file is not built yet in Tinamou's blockdev-create"));
    }
    Ok(())
}

fn of_luks(options: &mut Value, image: &mut Creation) -> Result<()> {
    for name in LUKS.iter().chain(&["preallocation"]) {
        if let Some(value) = take(options, name)? {
            image.options.push(((*name).to_owned(), value));
        }
    }
    Ok(())
}

impl QmpCommand for BlockdevCreate {
    const NAME: &'static str = "blockdev-create";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let graph = graph(vm)?;
        let mut options = self.options;
        let driver = take(&mut options, "driver")?;
        let driver = driver.ok_or_else(|| Error::missing("options.driver"))?;
        let mut image = Creation { keys: graph.keys(), ..Creation::default() };
        let (format, target) = match driver.as_str() {
            "file" => {
                image.filename = take(&mut options, "filename")?
                    .ok_or_else(|| Error::missing("options.filename"))?;
                if let Some(how) = take(&mut options, "preallocation")? {
                    image.options.push(("preallocation".into(), how));
                }
                take(&mut options, "nocow")?;
                take(&mut options, "extent-size-hint")?;
                ("raw", None)
            }
            "qcow2" => {
                let file = required(&mut options, "file")?;
                of_qcow2(&mut options, &mut image)?;
                ("qcow2", Some(file))
            }
            "luks" => {
                let file = required(&mut options, "file")?;
                of_luks(&mut options, &mut image)?;
                ("luks", Some(file))
            }
            "raw" => {
                let first = options.as_map().and_then(|members| members.first());
                let extra = first.map(|(key, _)| Error::unexpected(&format!("options.{key}")));
                let none = || Error::generic("Block driver 'raw' does not support blockdev-create");
                return Err(extra.unwrap_or_else(none));
            }
            other => {
                return Err(Error::not_accepted("driver", other, ["file", "luks", "qcow2"]));
            }
        };
        image.size = size(&mut options)?;
        if let Some((key, _)) = options.as_map().and_then(|members| members.first()) {
            return Err(Error::unexpected(&format!("options.{key}")));
        }
        if let Some((_, word)) = image.options.iter().find(|(name, _)| name == "compat")
            && !["v2", "v3"].contains(&word.as_str())
        {
            return Err(Error::not_accepted("version", word, ["v2", "v3"]));
        }
        let spec = Spec {
            id: self.job_id,
            kind: JobType::Create,
            speed: 0,
            on_error: OnJobError::Report,
            auto_finalize: true,
            auto_dismiss: false,
            nodes: Vec::new(),
        };
        let class = graph.class(format)?;
        let target = Late { graph: graph.clone(), file: target, class, image };
        jobs(vm)?.start(spec, || Ok(Box::new(target)))
    }
}

/// An image whose node is looked for when it is made, so that its absence is the job's error.
struct Late {
    graph: Arc<Graph>,
    file: Option<Value>,
    class: &'static block::BlockClass,
    image: Creation,
}

impl block_jobs::Work for Late {
    fn total(&self) -> u64 {
        1
    }
    fn run(&mut self, job: &block_jobs::Job) -> std::result::Result<(), block_jobs::Failure> {
        let target = match self.file.take().map(|file| node_of(&self.graph, file)).transpose() {
            Ok(Some(node)) => Target::Node(node),
            Ok(None) => Target::File,
            Err(error) => {
                job.add_progress(1);
                return Err(block_jobs::Failure::Failed(error));
            }
        };
        if self.class.name == "qcow2"
            && let Err(error) = checked(&self.image)
        {
            job.add_progress(1);
            return Err(block_jobs::Failure::Failed(error));
        }
        Creating { class: self.class, image: self.image.clone(), target }.run(job)
    }
}

/// What the command refuses of a qcow2 image, and the tool does not or in other words.
fn checked(image: &Creation) -> Result<()> {
    /// The longest disk, as at the peer.
    const MOST: u64 = 9_223_372_035_781_033_984;
    let refuse = |text: String| Err(Error::generic(text));
    let size = image.size;
    if !size.is_multiple_of(512) {
        return refuse("Image size must be a multiple of 512 bytes".into());
    }
    if i64::try_from(size).is_err() {
        return refuse("Could not resize image: Image size cannot be negative".into());
    }
    if size > MOST {
        return refuse(format!("Could not resize image: offset({size}) exceeds maximum({MOST})"));
    }
    let cluster =
        image.option("cluster_size").map_or(Some(65536), |text| qapi::parse_size(text, 1));
    let entry = if image.option("extended_l2") == Some("on") { 16 } else { 8 };
    let per_table = cluster.and_then(|cluster| cluster.checked_mul(cluster / entry));
    if per_table.is_some_and(|per| per > 0 && size.div_ceil(per) * 8 > 32 << 20) {
        let text = "Could not resize image: Failed to grow the L1 table: File too large";
        return refuse(text.into());
    }
    if image.option("backing_fmt").is_some() && image.option("backing_file").is_none() {
        return refuse("Backing format cannot be used without backing file".into());
    }
    Ok(())
}
