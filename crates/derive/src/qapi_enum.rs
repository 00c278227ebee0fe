//! `Qapi` of enums: words, tagged unions and alternates.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Fields, Ident, Result, Type};

use crate::{
    attrs::{QapiAttrs, doc, renamed},
    qapi::implementation,
};

/// A variant: Rust name, word, documentation, type of its data.
struct Case<'a> {
    ident: &'a Ident,
    word: String,
    doc: String,
    data: Option<&'a Type>,
}

pub(crate) fn expand(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    let attrs = QapiAttrs::read(&input.attrs)?;
    let name = attrs.name.clone().unwrap_or_else(|| input.ident.to_string());
    let mut cases = Vec::new();
    for variant in &data.variants {
        let own = QapiAttrs::read(&variant.attrs)?;
        let ident = &variant.ident;
        let word = match own.name {
            Some(word) => word,
            None => renamed(&ident.to_string(), attrs.rename_all.as_deref())
                .map_err(|e| syn::Error::new_spanned(ident, e))?,
        };
        let data = match &variant.fields {
            Fields::Unit => None,
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Some(&fields.unnamed[0].ty),
            other => return Err(syn::Error::new_spanned(other, "at most one unnamed field")),
        };
        cases.push(Case { ident, word, doc: doc(&variant.attrs), data });
    }
    match &attrs.tag {
        Some(tag) => Ok(union(input, &name, tag, attrs.content.as_deref(), &cases)),
        None if cases.iter().all(|case| case.data.is_none()) => Ok(words(input, &name, &cases)),
        None => alternate(input, &name, &cases),
    }
}

fn words(input: &DeriveInput, name: &str, cases: &[Case<'_>]) -> TokenStream {
    let idents: Vec<_> = cases.iter().map(|case| case.ident).collect();
    let texts: Vec<_> = cases.iter().map(|case| &case.word).collect();
    let docs = cases.iter().map(|case| &case.doc);
    let kind = quote!(::qapi::Kind::Enum(&[#(::qapi::Variant { name: #texts, doc: #docs }),*]));
    let from = quote! {
        _ = source;
        match value {
            ::qapi::Value::Str(word) => match word.as_str() {
                #(#texts => Ok(Self::#idents),)*
                _ => Err(::qapi::Error::not_accepted("", &word, [#(#texts),*])),
            },
            _ => Err(::qapi::Error::wrong_type("", "string")),
        }
    };
    let to = quote! {
        ::qapi::Value::from(match self { #(Self::#idents => #texts,)* })
    };
    implementation(input, name, &kind, &from, &to)
}

fn union(
    input: &DeriveInput,
    name: &str,
    tag: &str,
    content: Option<&str>,
    cases: &[Case<'_>],
) -> TokenStream {
    let unit: Type = syn::parse_quote!(());
    let texts: Vec<_> = cases.iter().map(|case| &case.word).collect();
    let types = cases.iter().map(|case| case.data.unwrap_or(&unit));
    let content_info = match content {
        Some(content) => quote!(::core::option::Option::Some(#content)),
        None => quote!(::core::option::Option::None),
    };
    let kind = quote! {
        ::qapi::Kind::Union {
            tag: #tag, base: &[], content: #content_info,
            branches: &[#((#texts, <#types as ::qapi::Qapi>::type_info)),*],
        }
    };
    let inner = match content {
        Some(content) => quote! {
            let inner: ::qapi::Value = match ::qapi::take_member::<Option<::qapi::Value>>(
                &mut members, #content, None, source)? {
                Some(inner) => inner,
                None => return Err(::qapi::Error::missing(#content)),
            };
            if let Some((name, _)) = members.first() {
                return Err(::qapi::Error::unexpected(name));
            }
        },
        None => quote!(let inner = ::qapi::Value::Map(members);),
    };
    let within = content.map(|content| quote!(.map_err(|error| error.within(#content))));
    let reads = cases.iter().map(|case| {
        let (ident, word) = (case.ident, &case.word);
        match case.data {
            Some(ty) => quote! {
                #word => Ok(Self::#ident(
                    <#ty as ::qapi::Qapi>::from_value(inner, source) #within ?)),
            },
            None => quote! {
                #word => {
                    <() as ::qapi::Qapi>::from_value(inner, source) #within ?;
                    Ok(Self::#ident)
                }
            },
        }
    });
    let from = quote! {
        let ::qapi::Value::Map(mut members) = value else {
            return Err(::qapi::Error::wrong_type("", "object"));
        };
        let tag: ::std::string::String = ::qapi::take_member(&mut members, #tag, None, source)?;
        if ![#(#texts),*].contains(&tag.as_str()) {
            return Err(::qapi::Error::not_accepted(#tag, &tag, [#(#texts),*]));
        }
        #inner
        match tag.as_str() {
            #(#reads)*
            _ => Err(::qapi::Error::not_accepted(#tag, &tag, [#(#texts),*])),
        }
    };
    let writes = cases.iter().map(|case| {
        let (ident, word) = (case.ident, &case.word);
        match case.data {
            Some(_) => quote!(Self::#ident(data) => (#word, ::qapi::Qapi::to_value(data)),),
            None => quote!(Self::#ident => (#word, ::qapi::Value::empty()),),
        }
    });
    let place = match content {
        Some(content) => quote!(members.push((#content.into(), inner));),
        None => quote!(if let ::qapi::Value::Map(inner) = inner {
            members.extend(inner);
        }),
    };
    let to = quote! {
        let (word, inner) = match self { #(#writes)* };
        let mut members = vec![(::std::string::String::from(#tag), ::qapi::Value::from(word))];
        #place
        ::qapi::Value::Map(members)
    };
    implementation(input, name, &kind, &from, &to)
}

fn alternate(input: &DeriveInput, name: &str, cases: &[Case<'_>]) -> Result<TokenStream> {
    let mut types = Vec::new();
    for case in cases {
        let ty = case.data;
        types.push(ty.ok_or_else(|| syn::Error::new_spanned(case.ident, "needs a type"))?);
    }
    let idents: Vec<_> = cases.iter().map(|case| case.ident).collect();
    let kind = quote! {
        ::qapi::Kind::Alternate(&[#(<#types as ::qapi::Qapi>::type_info),*])
    };
    let from = quote! {
        #(
            if ::qapi::TypeInfo::takes(<#types as ::qapi::Qapi>::type_info(), &value, source) {
                return <#types as ::qapi::Qapi>::from_value(value, source).map(Self::#idents);
            }
        )*
        Err(::qapi::Error::wrong_type("", #name))
    };
    let to = quote!(match self { #(Self::#idents(data) => ::qapi::Qapi::to_value(data),)* });
    Ok(implementation(input, name, &kind, &from, &to))
}
