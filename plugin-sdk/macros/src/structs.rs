//! `#[derive(Inputs)]` and `#[derive(Outputs)]`: structs that stand for several fields.

use crate::{
    expand::{field_parts, joined},
    parse::{fault, json_string, literal},
};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Expr, Field, Fields, LitStr, Result, spanned::Spanned};

/// What `#[input(…)]` or `#[output(…)]` says of a field.
#[derive(Default)]
struct Said {
    name: Option<String>,
    choices: Option<String>,
    default: Option<String>,
}

pub(crate) fn inputs(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let fields = named_fields(&item, "Inputs")?;
    let (mut specs, mut takes) = (Vec::new(), Vec::new());
    for field in &fields {
        let said = said(&field.attrs, "input")?;
        let (ident, kind) = (field.ident.as_ref().expect("named"), &field.ty);
        let name = said.name.unwrap_or_else(|| ident.to_string());
        let choices = said.choices.unwrap_or_else(|| "null".to_owned());
        let default = said.default.unwrap_or_else(|| "null".to_owned());
        specs.push(field_parts(&name, kind, &choices, &default));
        takes.push(quote!(#ident: ::rework_plugin::io::Input::take(#name, fields, task)?));
    }
    let ident = &item.ident;
    let spec = joined(&specs);
    Ok(quote! {
        impl ::rework_plugin::io::Input for #ident {
            const KIND: &'static str = "";
            const SPEC: &'static str = #spec;

            fn take(
                _: &str,
                fields: &mut ::rework_plugin::export::serde_json::Map<String, ::rework_plugin::io::Value>,
                task: &::rework_plugin::Task,
            ) -> ::rework_plugin::Result<Self> {
                Ok(Self { #(#takes),* })
            }
        }
    })
}

pub(crate) fn outputs(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let fields = named_fields(&item, "Outputs")?;
    let (mut specs, mut puts) = (Vec::new(), Vec::new());
    for field in &fields {
        let said = said(&field.attrs, "output")?;
        let (ident, kind) = (field.ident.as_ref().expect("named"), &field.ty);
        let name = said.name.unwrap_or_else(|| ident.to_string());
        let open = format!("{{\"name\":{},\"type\":\"", json_string(&name));
        specs.push(quote! {
            #open,
            <#kind as ::rework_plugin::io::OutputField>::KIND,
            "\",\"required\":",
            ::rework_plugin::export::boolean(<#kind as ::rework_plugin::io::OutputField>::REQUIRED),
            ",\"choices\":null,\"default\":null}"
        });
        puts.push(quote! {
            ::rework_plugin::io::OutputField::put(self.#ident, #name, &mut fields, task)?;
        });
    }
    let ident = &item.ident;
    let spec = joined(&specs);
    Ok(quote! {
        impl ::rework_plugin::io::Output for #ident {
            const SPEC: &'static str = #spec;

            fn save(self, task: &mut ::rework_plugin::Task) -> ::rework_plugin::Result<()> {
                let mut fields = ::rework_plugin::export::serde_json::Map::new();
                #(#puts)*
                task.save_output(&fields)
            }
        }
    })
}

fn named_fields(item: &DeriveInput, derive: &str) -> Result<Vec<Field>> {
    if !item.generics.params.is_empty() {
        return fault(
            item.generics.span(),
            &format!("a struct of {derive} cannot be generic"),
        );
    }
    match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(fields.named.iter().cloned().collect()),
            Fields::Unit | Fields::Unnamed(_) => fault(
                item.ident.span(),
                &format!("{derive} need fields with names"),
            ),
        },
        Data::Enum(_) | Data::Union(_) => fault(
            item.ident.span(),
            &format!("{derive} can only be derived for a struct"),
        ),
    }
}

fn said(attributes: &[Attribute], word: &str) -> Result<Said> {
    let mut said = Said::default();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident(word))
    {
        attribute.parse_nested_meta(|meta| {
            let name = meta
                .path
                .get_ident()
                .map(ToString::to_string)
                .unwrap_or_default();
            match name.as_str() {
                "name" => said.name = Some(meta.value()?.parse::<LitStr>()?.value()),
                "choices" if word == "input" => {
                    let list: syn::ExprArray = meta.value()?.parse()?;
                    let choices: Vec<String> =
                        list.elems.iter().map(literal).collect::<Result<_>>()?;
                    said.choices = Some(format!("[{}]", choices.join(",")));
                }
                "default" if word == "input" => {
                    said.default = Some(literal(&meta.value()?.parse::<Expr>()?)?);
                }
                _ => {
                    let known = if word == "input" {
                        "name, choices, default"
                    } else {
                        "name"
                    };
                    let message = format!("unknown attribute `{name}` (known: {known})");
                    return Err(syn::Error::new(meta.path.span(), message));
                }
            }
            Ok(())
        })?;
    }
    Ok(said)
}
