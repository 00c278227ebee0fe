//! `Qapi` of structs.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DataStruct, DeriveInput, Field, Fields, Result};

use crate::attrs::{QapiAttrs, doc, is_option, renamed};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&input.generics, "a QAPI type has no parameters"));
    }
    match &input.data {
        Data::Struct(data) => expand_struct(input, data),
        Data::Enum(data) => crate::qapi_enum::expand(input, data),
        Data::Union(_) => Err(syn::Error::new_spanned(&input.ident, "not for Rust unions")),
    }
}

/// The implementation around the three bodies.
pub(crate) fn implementation(
    input: &DeriveInput,
    name: &str,
    kind: &TokenStream,
    from: &TokenStream,
    to: &TokenStream,
) -> TokenStream {
    let ident = &input.ident;
    let doc = doc(&input.attrs);
    quote! {
        #[automatically_derived]
        impl ::qapi::Qapi for #ident {
            fn type_info() -> &'static ::qapi::TypeInfo {
                static INFO: ::qapi::TypeInfo =
                    ::qapi::TypeInfo { name: #name, doc: #doc, kind: #kind };
                &INFO
            }
            fn from_value(
                value: ::qapi::Value,
                source: ::qapi::Source,
            ) -> ::qapi::Result<Self> {
                #from
            }
            fn to_value(&self) -> ::qapi::Value {
                #to
            }
        }
    }
}

/// What is generated for one field.
struct Parts {
    member: Option<TokenStream>,
    take: TokenStream,
    put: TokenStream,
    /// Takes all members that are left, so it comes last.
    last: bool,
    /// For `flatten`: takes only the members it knows.
    some: Option<TokenStream>,
}

fn field_parts(field: &Field, rule: Option<&str>) -> Result<Parts> {
    let attrs = QapiAttrs::read(&field.attrs)?;
    let ident = field.ident.as_ref();
    let ident = ident.ok_or_else(|| syn::Error::new_spanned(field, "fields need names"))?;
    let ty = &field.ty;
    if attrs.skip {
        let take = quote!(let #ident = ::core::default::Default::default(););
        return Ok(Parts {
            member: None,
            take,
            put: quote!(_ = &self.#ident;),
            last: false,
            some: None,
        });
    }
    if attrs.rest {
        let take = quote! {
            let #ident = ::qapi::Value::Map(::core::mem::take(&mut members));
        };
        let put = quote! {
            if let ::qapi::Value::Map(rest) = &self.#ident { members.extend(rest.iter().cloned()); }
        };
        return Ok(Parts { member: None, take, put, last: true, some: None });
    }
    let name = match attrs.name {
        Some(name) => name,
        None => renamed(&ident.to_string(), rule).map_err(|e| syn::Error::new_spanned(ident, e))?,
    };
    let text = doc(&field.attrs);
    let features = &attrs.features;
    let optional = is_option(ty) || attrs.default.is_some();
    let default = match &attrs.default {
        Some(default) => quote!(::core::option::Option::Some(#default)),
        None => quote!(::core::option::Option::None),
    };
    let flatten = attrs.flatten;
    let member = quote! {
        ::qapi::Member {
            name: #name, doc: #text, ty: <#ty as ::qapi::Qapi>::type_info,
            default: #default, optional: #optional, flatten: #flatten, features: &[#(#features),*],
        }
    };
    let (take, put) = if flatten {
        (
            quote! {
                let #ident = <#ty as ::qapi::Qapi>::from_value(
                    ::qapi::Value::Map(::core::mem::take(&mut members)), source)?;
            },
            quote! {
                if let ::qapi::Value::Map(rest) = ::qapi::Qapi::to_value(&self.#ident) {
                    members.extend(rest);
                }
            },
        )
    } else {
        (
            quote! {
                let #ident: #ty = ::qapi::take_member(&mut members, #name, #default, source)?;
            },
            quote! {
                if ::qapi::Qapi::is_present(&self.#ident) {
                    members.push((#name.into(), ::qapi::Qapi::to_value(&self.#ident)));
                }
            },
        )
    };
    let some = flatten.then(|| {
        quote! {
            let #ident = <#ty as ::qapi::Qapi>::from_value(
                ::qapi::take_known(&mut members, <#ty as ::qapi::Qapi>::type_info()), source)?;
        }
    });
    Ok(Parts { member: Some(member), take, put, last: flatten, some })
}

fn expand_struct(input: &DeriveInput, data: &DataStruct) -> Result<TokenStream> {
    let attrs = QapiAttrs::read(&input.attrs)?;
    let name = attrs.name.unwrap_or_else(|| input.ident.to_string());
    let rule = attrs.rename_all.as_deref();
    let fields: Vec<&Field> = match &data.fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
            return newtype(input, &fields.unnamed[0]);
        }
        Fields::Unnamed(fields) => return Err(syn::Error::new_spanned(fields, "name the fields")),
    };
    let mut parts = Vec::new();
    for field in &fields {
        parts.push(field_parts(field, rule)?);
    }
    // Of several, the last takes what is left, and those before it only what they know.
    let lasts: Vec<usize> = (0..parts.len()).filter(|i| parts[*i].last).collect();
    for index in lasts.iter().rev().skip(1) {
        match parts[*index].some.take() {
            Some(some) => parts[*index].take = some,
            None => return Err(syn::Error::new_spanned(&input.ident, "`rest` comes last")),
        }
    }
    let members = parts.iter().filter_map(|part| part.member.as_ref());
    let takes = parts.iter().filter(|p| !p.last).chain(parts.iter().filter(|p| p.last));
    let takes = takes.map(|part| &part.take);
    let puts = parts.iter().map(|part| &part.put);
    let idents = fields.iter().map(|field| &field.ident);
    let built = match &data.fields {
        Fields::Unit => quote!(Self),
        _ => quote!(Self { #(#idents),* }),
    };
    let kind = quote!(::qapi::Kind::Struct(&[#(#members),*]));
    let from = quote! {
        let ::qapi::Value::Map(mut members) = value else {
            return Err(::qapi::Error::wrong_type("", "object"));
        };
        #(#takes)*
        if let Some((name, _)) = members.drain(..).next() {
            return Err(::qapi::Error::unexpected(&name));
        }
        _ = source;
        Ok(#built)
    };
    let to = quote! {
        let mut members: ::std::vec::Vec<(::std::string::String, ::qapi::Value)> =
            ::std::vec::Vec::new();
        #(#puts)*
        members.shrink_to_fit();
        ::qapi::Value::Map(members)
    };
    Ok(implementation(input, &name, &kind, &from, &to))
}

/// `struct Id(String)` is a string to the outside.
fn newtype(input: &DeriveInput, field: &Field) -> Result<TokenStream> {
    let ident = &input.ident;
    let ty = &field.ty;
    Ok(quote! {
        #[automatically_derived]
        impl ::qapi::Qapi for #ident {
            fn type_info() -> &'static ::qapi::TypeInfo {
                <#ty as ::qapi::Qapi>::type_info()
            }
            fn from_value(
                value: ::qapi::Value,
                source: ::qapi::Source,
            ) -> ::qapi::Result<Self> {
                <#ty as ::qapi::Qapi>::from_value(value, source).map(Self)
            }
            fn to_value(&self) -> ::qapi::Value {
                ::qapi::Qapi::to_value(&self.0)
            }
        }
    })
}
