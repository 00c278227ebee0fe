//! Reading of attributes and doc comments.

use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta, Path, Result, Type};

/// The doc comment as one paragraph.
pub(crate) fn doc(attrs: &[Attribute]) -> String {
    let mut text = String::new();
    for attr in attrs {
        if let Meta::NameValue(pair) = &attr.meta
            && pair.path.is_ident("doc")
            && let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &pair.value
        {
            let line = line.value();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line.trim());
        }
    }
    text.trim().to_owned()
}

/// Whether the type is written `Option<…>`.
pub(crate) fn is_option(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "Option")
}

/// `#[qapi(…)]` on a type, a field or a variant.
#[derive(Default)]
pub(crate) struct QapiAttrs {
    pub(crate) name: Option<String>,
    pub(crate) rename_all: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) content: Option<String>,
    pub(crate) default: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) skip: bool,
    pub(crate) flatten: bool,
    pub(crate) rest: bool,
}

impl QapiAttrs {
    pub(crate) fn read(attrs: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("qapi")) {
            attr.parse_nested_meta(|meta| {
                let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                let text = || -> Result<String> { Ok(meta.value()?.parse::<LitStr>()?.value()) };
                match name.as_str() {
                    "name" => found.name = Some(text()?),
                    "rename_all" => found.rename_all = Some(text()?),
                    "tag" => found.tag = Some(text()?),
                    "content" => found.content = Some(text()?),
                    "default" => found.default = Some(literal(&meta.value()?.parse()?)?),
                    "features" => {
                        found.features = text()?.split_whitespace().map(str::to_owned).collect();
                    }
                    "skip" => found.skip = true,
                    "flatten" => found.flatten = true,
                    "rest" => found.rest = true,
                    _ => return Err(meta.error("unknown attribute of #[qapi]")),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// A literal as a person would write it on the command line.
fn literal(expr: &Expr) -> Result<String> {
    match expr {
        Expr::Lit(ExprLit { lit, .. }) => match lit {
            Lit::Str(text) => Ok(text.value()),
            Lit::Bool(truth) => Ok(if truth.value { "on" } else { "off" }.into()),
            Lit::Int(number) => Ok(number.base10_digits().into()),
            Lit::Float(number) => Ok(number.base10_digits().into()),
            _ => Err(syn::Error::new_spanned(lit, "expected a string, number or boolean")),
        },
        Expr::Unary(unary) => Ok(format!("-{}", literal(&unary.expr)?)),
        _ => Err(syn::Error::new_spanned(expr, "expected a literal")),
    }
}

/// `#[vmstate(…)]` on a type or a field.
#[derive(Default)]
pub(crate) struct StateAttrs {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) min_version: Option<u32>,
    pub(crate) validate: Option<Path>,
    pub(crate) skip: bool,
    pub(crate) since: Option<u32>,
    pub(crate) until: Option<u32>,
    pub(crate) with: Option<Path>,
    pub(crate) when: Option<Path>,
    pub(crate) max: Option<Expr>,
}

impl StateAttrs {
    pub(crate) fn read(attrs: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("vmstate")) {
            attr.parse_nested_meta(|meta| {
                let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                let number =
                    || -> Result<u32> { meta.value()?.parse::<syn::LitInt>()?.base10_parse() };
                match name.as_str() {
                    "name" => found.name = Some(meta.value()?.parse::<LitStr>()?.value()),
                    "version" => found.version = Some(number()?),
                    "min_version" => found.min_version = Some(number()?),
                    "since" => found.since = Some(number()?),
                    "until" => found.until = Some(number()?),
                    "validate" => found.validate = Some(path(&meta.value()?.parse()?)?),
                    "with" => found.with = Some(path(&meta.value()?.parse()?)?),
                    "max" => found.max = Some(meta.value()?.parse()?),
                    "skip" => found.skip = true,
                    "section" => meta.parse_nested_meta(|inner| {
                        if !inner.path.is_ident("when") {
                            return Err(inner.error("expected `when = path`"));
                        }
                        found.when = Some(path(&inner.value()?.parse()?)?);
                        Ok(())
                    })?,
                    _ => return Err(meta.error("unknown attribute of #[vmstate]")),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// A path, bare or in quotes.
fn path(expr: &Expr) -> Result<Path> {
    match expr {
        Expr::Path(path) => Ok(path.path.clone()),
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse(),
        _ => Err(syn::Error::new_spanned(expr, "expected a path")),
    }
}

/// Splits `CamelCase`, `snake_case` and numbers into words.
fn words(ident: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last_upper = true;
    for c in ident.trim_start_matches("r#").chars() {
        if c == '_' {
            words.push(String::new());
            last_upper = true;
            continue;
        }
        if words.is_empty() || (c.is_ascii_uppercase() && !last_upper) {
            words.push(String::new());
        }
        last_upper = c.is_ascii_uppercase();
        if let Some(word) = words.last_mut() {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The name of a member or word by the rule of `rename_all`.
pub(crate) fn renamed(ident: &str, rule: Option<&str>) -> std::result::Result<String, String> {
    let plain = ident.trim_start_matches("r#").to_owned();
    match rule.unwrap_or("kebab-case") {
        "kebab-case" => Ok(words(ident).join("-")),
        "snake_case" => Ok(words(ident).join("_")),
        "lowercase" => Ok(words(ident).concat()),
        "UPPERCASE" => Ok(plain.to_ascii_uppercase()),
        "SCREAMING_SNAKE_CASE" => Ok(words(ident).join("_").to_ascii_uppercase()),
        "verbatim" => Ok(plain),
        other => Err(format!("unknown rule `{other}`")),
    }
}
