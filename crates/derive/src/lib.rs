//! The derives of Tinamou: [`Qapi`] and [`VmState`].
//!
//! This is the only proc-macro crate, so that `syn` is compiled once. The derives write plain
//! trait implementations for the traits of the crates `qapi` and `vmstate`; they know nothing
//! about devices or commands. Mistakes in attributes are compile errors at the attribute.
//!
//! Sources: `docs/` of this project for the attributes; see [`macro@Qapi`] and [`macro@VmState`].

mod attrs;
mod qapi;
mod qapi_enum;
mod vmstate;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `qapi::Qapi`; doc comments become the documentation of type and members.
///
/// On a struct: each field is a member. On an enum without data: the words. On an enum of
/// one-field variants: with `tag = "…"` a union told apart by that member, else an alternate told
/// apart by the JSON type. A unit variant of a union has no members of its own.
///
/// Type attributes `#[qapi(…)]`: `name = "…"`, `tag = "…"`, `content = "…"` (the branch lies in
/// this member, not beside the tag), `rename_all = "kebab-case" | "snake_case" | "lowercase" |
/// "UPPERCASE" | "SCREAMING_SNAKE_CASE" | "verbatim"` (default: kebab-case).
///
/// Field attributes: `name = "…"`, `default = "…"` (text as a person writes it; a value of a
/// different type is given by its text as well), `skip` (not a member, `Default`), `flatten`
/// (its members lie here; of several, the last takes what the
/// others do not know), `rest` (a `qapi::Value` that takes all other members), `features =
/// "deprecated unstable"`.
#[proc_macro_derive(Qapi, attributes(qapi))]
pub fn derive_qapi(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    qapi::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `vmstate::VmState` for a struct, `vmstate::Field` for an enum without data.
///
/// Type attributes `#[vmstate(…)]`: `name = "…"` (default: the type's name), `version = 1`,
/// `min_version = 1`, `validate = path` (a `fn(&Self) -> Result<(), LoadError>`).
///
/// Field attributes: `skip` (not saved; `Default` after a load), `since = n`, `until = n` (versions
/// that have it), `with = module` (its `save(&T) -> S` and `load(S) -> Result<T, LoadError>`),
/// `section(when = path)` (saved only when `path(&Self)`; else `Default` after a load), `max = n`
/// (bound on the elements of a list).
#[proc_macro_derive(VmState, attributes(vmstate))]
pub fn derive_vmstate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    vmstate::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
