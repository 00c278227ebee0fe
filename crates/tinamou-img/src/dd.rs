//! `dd`: copies blocks of an image to a new one.
//!
//! Operands are those of dd(1): `if=`, `of=`, `bs=`, `count=`, `skip=`. The new image is as long as
//! what is copied.
//! Source: QEMU's manual, `qemu-img dd`.

use block::{Creation, Flags};

use crate::create::{class, make};
use crate::options::{Given, Opt, open, size};
use crate::{Done, Fail, fail};

const OPTIONS: &[Opt] = &[('f', "format", "FMT"), ('O', "output-format", "OUTPUT_FMT")];

#[derive(Default)]
struct Operands {
    input: Option<String>,
    output: Option<String>,
    bs: Option<u64>,
    count: Option<u64>,
    skip: Option<u64>,
}

fn operands(words: &[String]) -> Result<Operands, Fail> {
    let mut found = Operands::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = |name: &str| {
            size(value).map_err(|_| Fail(format!("Invalid {name} specified: '{value}'."), 1))
        };
        match name {
            "if" if word.contains('=') => found.input = Some(value.to_owned()),
            "of" if word.contains('=') => found.output = Some(value.to_owned()),
            "bs" => {
                let bs = number("bs")?;
                if bs == 0 || bs > i32::MAX as u64 {
                    return Err(Fail(format!("Invalid bs specified: '{value}'."), 1));
                }
                found.bs = Some(bs);
            }
            "count" => found.count = Some(number("count")?),
            "skip" => found.skip = Some(number("skip")?),
            _ => return Err(Fail(format!("unrecognized operand {name}"), 1)),
        }
    }
    Ok(found)
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("dd", args, OPTIONS)? else { return Ok(0) };
    let Operands { input, output, bs, count, skip } = operands(&given.names)?;
    let (Some(input), Some(output)) = (input, output) else {
        return Err(Fail("Must specify both input and output files".into(), 1));
    };
    let graph = given.graph()?;
    let format = given.value("output-format").unwrap_or("raw");
    let from = given.open(&graph, &input, given.value("format"), given.flags(true))?;
    let target = class(&graph, format)?;
    let bs = bs.unwrap_or(512);
    let end = count.map_or(u64::MAX, |count| count.saturating_mul(bs)).min(from.len());
    let begin = skip.unwrap_or(0).saturating_mul(bs);
    let end = match count {
        // Blocks are counted from where reading begins.
        Some(count) => begin.saturating_add(count.saturating_mul(bs)).min(from.len()),
        None => end,
    };
    if begin > from.len() {
        eprintln!("qemu-img: {input}: cannot skip to specified offset");
    }
    let len = end.saturating_sub(begin);
    let new = Creation { filename: output.clone(), size: len, ..Creation::default() };
    make(target, &new)?;
    let to = open(&graph, &output, Some(format), Flags { no_flush: true, ..Flags::default() })?;
    let piece = bs.max((1 << 20) / bs * bs);
    let mut data = vec![0; usize::try_from(piece.min(len)).unwrap_or(0)];
    let mut at = 0;
    while at < len {
        let n = piece.min(len - at);
        let part = data.get_mut(..usize::try_from(n).unwrap_or(0)).unwrap_or_default();
        if let Err(error) = from.read(begin + at, part) {
            return fail("error while reading from input image file", &error);
        }
        if let Err(error) = to.write(at, part) {
            return fail("error while writing to output image file", &error);
        }
        at += n;
    }
    match to.flush() {
        Ok(()) => Ok(0),
        Err(error) => fail("error while flushing", &error),
    }
}
