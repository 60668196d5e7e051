//! `#[derive(Inputs)]` and `#[derive(Outputs)]`: structs that stand for several fields.

use crate::{
    expand::{as_field, field_parts, joined},
    parse::{Limits, Literal, fault, unraw},
};
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Data, DeriveInput, Expr, Field, Fields, Ident, LitStr, Result, Token, Type,
    punctuated::Punctuated, spanned::Spanned,
};

/// What `#[input(…)]` or `#[output(…)]` declares of a field.
#[derive(Default)]
struct FieldAttributes {
    name: Option<String>,
    limits: Limits,
}

/// A field, and its name in a payload.
struct Named<'a> {
    ident: &'a Ident,
    kind: &'a Type,
    name: String,
    limits: Limits,
}

pub(crate) fn inputs(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let fields = fields(&item, "Inputs", "input")?;
    let (mut specs, mut takes, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for Named {
        ident,
        kind,
        name,
        limits,
    } in &fields
    {
        let field = as_field(kind);
        specs.push(field_parts(name, &field, Some(limits)));
        takes.push(quote!(#ident: #field::take(#name, fields, task)?));
        checks.extend(literal_checks(limits, &field));
    }
    let ident = &item.ident;
    let spec = joined(&specs);
    Ok(quote! {
        impl ::rework_plugin::io::Input for #ident {
            const SPEC: Option<&'static str> = Some(#spec);

            fn take(
                _: &str,
                fields: &mut ::rework_plugin::export::serde_json::Map<String, ::rework_plugin::io::Value>,
                task: &::rework_plugin::Task,
            ) -> ::rework_plugin::Result<Self> {
                Ok(Self { #(#takes),* })
            }
        }
        #(#checks)*
    })
}

pub(crate) fn outputs(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let fields = fields(&item, "Outputs", "output")?;
    let (mut specs, mut puts, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for Named {
        ident,
        kind,
        name,
        limits,
    } in &fields
    {
        let field = quote_spanned!(kind.span()=> <#kind as ::rework_plugin::io::OutputField>);
        specs.push(field_parts(name, &field, Some(limits)));
        puts.push(quote!(#field::put(self.#ident, #name, &mut fields, task)?;));
        checks.extend(literal_checks(limits, &field));
    }
    let ident = &item.ident;
    let spec = joined(&specs);
    Ok(quote! {
        impl ::rework_plugin::io::Output for #ident {
            const SPEC: &'static str = #spec;

            fn save(self, task: &mut ::rework_plugin::Task) -> ::rework_plugin::Result<()> {
                let mut fields = ::rework_plugin::export::serde_json::Map::new();
                #(#puts)*
                ::rework_plugin::export::save_fields(Self::SPEC, &fields, task)
            }
        }
        #(#checks)*
    })
}

/// Checks, made by the compiler, that choices and default have the type of their field.
fn literal_checks(limits: &Limits, field: &TokenStream) -> Vec<TokenStream> {
    let check = |literal: &Literal| {
        let given = literal.kind;
        quote_spanned!(literal.span=>
            const _: () = ::rework_plugin::export::check_literal(#given, #field::KIND);)
    };
    limits.literals().map(check).collect()
}

/// The fields of a struct; an error if two have the same name in a payload.
fn fields<'a>(item: &'a DeriveInput, derive: &str, word: &str) -> Result<Vec<Named<'a>>> {
    let mut named: Vec<Named<'a>> = Vec::new();
    for field in named_fields(item, derive)? {
        let field_attributes = field_attributes(&field.attrs, word)?;
        field_attributes.limits.check()?;
        let ident = field.ident.as_ref().expect("its fields have names");
        let name = field_attributes.name.unwrap_or_else(|| unraw(ident));
        if named.iter().any(|earlier| earlier.name == name) {
            return fault(ident.span(), &format!("there is another field `{name}`"));
        }
        named.push(Named {
            ident,
            kind: &field.ty,
            name,
            limits: field_attributes.limits,
        });
    }
    Ok(named)
}

fn named_fields<'a>(
    item: &'a DeriveInput,
    derive: &str,
) -> Result<&'a Punctuated<Field, Token![,]>> {
    if !item.generics.params.is_empty() {
        return fault(
            item.generics.span(),
            &format!("a struct of {derive} cannot be generic"),
        );
    }
    match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(&fields.named),
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

fn field_attributes(attributes: &[Attribute], word: &str) -> Result<FieldAttributes> {
    let mut field_attributes = FieldAttributes::default();
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
                "name" => field_attributes.name = Some(meta.value()?.parse::<LitStr>()?.value()),
                "choices" => {
                    let list: syn::ExprArray = meta.value()?.parse()?;
                    if list.elems.is_empty() {
                        return fault(list.span(), "without a choice there is no value");
                    }
                    let choices = list.elems.iter().map(Literal::read);
                    field_attributes.limits.choices = Some(choices.collect::<Result<_>>()?);
                }
                "default" => {
                    field_attributes.limits.default =
                        Some(Literal::read(&meta.value()?.parse::<Expr>()?)?);
                }
                _ => {
                    let message =
                        format!("unknown attribute `{name}` (known: name, choices, default)");
                    return Err(syn::Error::new(meta.path.span(), message));
                }
            }
            Ok(())
        })?;
    }
    Ok(field_attributes)
}
