//! `VmState` of structs and `Field` of enums.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DataEnum, DataStruct, DeriveInput, Field, Fields, Member, Result};

use crate::attrs::StateAttrs;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    match &input.data {
        Data::Struct(data) => expand_struct(input, data),
        Data::Enum(data) => expand_enum(input, data),
        Data::Union(_) => Err(syn::Error::new_spanned(&input.ident, "not for Rust unions")),
    }
}

/// What is generated for one field.
struct Parts {
    schema: Option<TokenStream>,
    save: TokenStream,
    load: TokenStream,
}

fn field_parts(field: &Field, member: &Member, version: u32) -> Result<Parts> {
    let attrs = StateAttrs::read(&field.attrs)?;
    let ty = &field.ty;
    let absent = quote!(::core::default::Default::default());
    if attrs.skip {
        return Ok(Parts { schema: None, save: quote!(_ = &self.#member;), load: absent });
    }
    let name = match member {
        Member::Named(ident) => ident.to_string().trim_start_matches("r#").to_owned(),
        Member::Unnamed(index) => index.index.to_string(),
    };
    let (since, until) = (attrs.since.unwrap_or(0), attrs.until.unwrap_or(u32::MAX));
    let kind = match (&attrs.with, &attrs.when) {
        (Some(path), _) => {
            let text =
                format!("with {}", quote!(#path)).replace(' ', "").replacen("with", "with ", 1);
            quote!(|| ::std::string::String::from(#text))
        }
        (None, Some(_)) => quote!(<::core::option::Option<#ty> as ::vmstate::Field>::kind),
        (None, None) => quote!(<#ty as ::vmstate::Field>::kind),
    };
    let nested = if attrs.with.is_some() {
        quote!(|| ::core::option::Option::None)
    } else {
        quote!(<#ty as ::vmstate::Field>::nested)
    };
    let schema = quote! {
        ::vmstate::FieldSchema {
            name: #name, kind: #kind, nested: #nested, since: #since, until: #until,
        }
    };
    let max = match &attrs.max {
        Some(max) => quote!(::core::option::Option::Some(#max)),
        None => quote!(::core::option::Option::None),
    };
    let save = match (&attrs.with, &attrs.when) {
        (Some(path), None) => quote!(w.field(#name, &#path::save(&self.#member));),
        (None, None) => quote!(w.field(#name, &self.#member);),
        (None, Some(when)) => quote!(w.section(#name, #when(self), &self.#member);),
        (Some(path), Some(when)) => {
            quote!(w.section(#name, #when(self), &#path::save(&self.#member));)
        }
    };
    let load = match (&attrs.with, &attrs.when) {
        (Some(path), None) => quote!(#path::load(r.field(#name, #max)?)?),
        (None, None) => quote!(r.field::<#ty>(#name, #max)?),
        (None, Some(_)) => quote!(r.section::<#ty>(#name, #max)?.unwrap_or_default()),
        (Some(path), Some(_)) => quote!(match r.section(#name, #max)? {
            ::core::option::Option::Some(part) => #path::load(part)?,
            ::core::option::Option::None => #absent,
        }),
    };
    if since == 0 && until == u32::MAX {
        return Ok(Parts { schema: Some(schema), save, load });
    }
    let save = if (since..=until).contains(&version) { save } else { quote!(_ = &self.#member;) };
    let load = quote!(if (#since..=#until).contains(&version) { #load } else { #absent });
    Ok(Parts { schema: Some(schema), save, load })
}

fn expand_struct(input: &DeriveInput, data: &DataStruct) -> Result<TokenStream> {
    let attrs = StateAttrs::read(&input.attrs)?;
    let ident = &input.ident;
    let name = attrs.name.unwrap_or_else(|| ident.to_string());
    let version = attrs.version.unwrap_or(1);
    let min_version = attrs.min_version.unwrap_or(1);
    let members: Vec<Member> = data.fields.members().collect();
    let mut parts = Vec::new();
    for (field, member) in data.fields.iter().zip(&members) {
        parts.push(field_parts(field, member, version)?);
    }
    let schemas = parts.iter().filter_map(|part| part.schema.as_ref());
    let saves = parts.iter().map(|part| &part.save);
    let loads = parts.iter().map(|part| &part.load);
    let validate = attrs.validate.map(|path| {
        quote! {
            fn validate(&self) -> ::core::result::Result<(), ::vmstate::LoadError> { #path(self) }
        }
    });
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::vmstate::VmState for #ident #arguments #bounds {
            fn schema() -> &'static ::vmstate::StateSchema {
                const {
                    &::vmstate::StateSchema {
                        name: #name, version: #version, min_version: #min_version,
                        fields: &[#(#schemas),*],
                    }
                }
            }
            fn save(&self, w: &mut ::vmstate::StateWriter) {
                _ = &w;
                #(#saves)*
            }
            fn load(
                r: &mut ::vmstate::StateReader<'_>,
                version: u32,
            ) -> ::core::result::Result<Self, ::vmstate::LoadError> {
                _ = (&r, version);
                Ok(Self { #(#members: #loads),* })
            }
            #validate
        }
    })
}

fn expand_enum(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    let ident = &input.ident;
    let mut idents = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(variant, "only enums without data"));
        }
        idents.push(&variant.ident);
    }
    let numbers: Vec<u32> = (0..).take(idents.len()).collect();
    let words: Vec<String> = idents.iter().map(ToString::to_string).collect();
    let kind = format!("enum {{{}}}", words.join(" "));
    let wrong = format!("no such {ident}");
    Ok(quote! {
        #[automatically_derived]
        impl ::vmstate::Field for #ident {
            fn kind() -> ::std::string::String {
                ::std::string::String::from(#kind)
            }
            fn save(&self, w: &mut ::vmstate::StateWriter) {
                let number: u32 = match self { #(Self::#idents => #numbers,)* };
                ::vmstate::Field::save(&number, w);
            }
            fn load(
                r: &mut ::vmstate::StateReader<'_>,
                max: ::core::option::Option<usize>,
            ) -> ::core::result::Result<Self, ::vmstate::LoadError> {
                match <u32 as ::vmstate::Field>::load(r, max)? {
                    #(#numbers => Ok(Self::#idents),)*
                    _ => Err(::vmstate::LoadError::Invalid(#wrong)),
                }
            }
        }
    })
}
