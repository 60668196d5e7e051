//! `#[operation]`: the function as it is, and beside it its registration and its note.

use crate::parse::{Attributes, Limits, Requirement, description, fault, json_string, unraw};
use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{FnArg, Ident, ItemFn, Pat, Result, ReturnType, Type, spanned::Spanned};

/// One argument of an operation's function, with its name.
struct Argument {
    name: Ident,
    kind: Type,
}

/// The signature of a function that can be an operation.
struct Signature {
    takes_task: bool,
    arguments: Vec<Argument>,
}

pub(crate) fn operation(attributes: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let attributes = Attributes::parse(attributes)?;
    let function: ItemFn = syn::parse2(item)?;
    let signature = signature(&function)?;
    let name = &function.sig.ident;
    let operation = attributes.name.clone().unwrap_or_else(|| unraw(name));
    let domain = attributes
        .domain
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    let inputs = inputs_spec(&signature);
    let returned = returned(&function);
    let save =
        quote_spanned!(returned.span()=> <#returned as ::rework_plugin::export::Returned>::save);
    let head = head(&attributes, &function, &operation, &domain);
    let call = call(&function, &signature);
    let takes = takes(&signature);
    let check_requirement = check_requirement(&attributes);
    Ok(quote! {
        #function

        #check_requirement

        const _: () = {
            use ::rework_plugin::export;

            const INPUTS: &str = #inputs;
            const PARTS: &[&str] = &[
                #head,
                ",\"module\":\"", module_path!(),
                "\",\"file\":\"", file!(),
                "\",\"line\":", concat!(line!()),
                ",\"inputs\":", INPUTS,
                ",\"outputs\":", <#returned as export::Returned>::SPEC,
                "}",
            ];

            #[used]
            #[unsafe(link_section = ".note.rework")]
            static NOTE: export::Note<{ export::padded(PARTS) }> = export::Note::new(2, PARTS);

            extern "C" fn run(
                host: ::rework_plugin::abi::HostRef,
                context: ::rework_plugin::abi::Context,
            ) -> i32 {
                export::run(host, context, |task| {
                    #takes
                    let returned = #call;
                    #save(returned, task)
                })
            }

            #[export::linkme::distributed_slice(export::OPERATIONS)]
            #[linkme(crate = ::rework_plugin::export::linkme)]
            static REGISTERED: export::Registered = export::Registered {
                name: #operation,
                domain: #domain,
                inputs: INPUTS,
                run,
            };
        };
    })
}

/// Reads the signature of a function; an error if it cannot be an operation.
fn signature(function: &ItemFn) -> Result<Signature> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return fault(signature.generics.span(), "an operation cannot be generic");
    }
    if let syn::Safety::Unsafe(word) = &signature.safety {
        return fault(word.span(), "an operation cannot be unsafe");
    }
    if let Some(asyncness) = &signature.asyncness
        && !cfg!(feature = "tokio")
    {
        return fault(
            asyncness.span(),
            "an async operation needs the feature `tokio`: rework-plugin = { version = \"…\", features = [\"tokio\"] }",
        );
    }
    let mut takes_task = false;
    let mut arguments = Vec::new();
    for (place, argument) in signature.inputs.iter().enumerate() {
        let argument = match argument {
            FnArg::Receiver(receiver) => {
                return fault(
                    receiver.span(),
                    "an operation is a plain function, without `self`",
                );
            }
            FnArg::Typed(argument) => argument,
        };
        if is_task(&argument.ty) {
            if place > 0 {
                return fault(argument.span(), "`&mut Task` comes first");
            }
            takes_task = true;
            continue;
        }
        if let Type::Reference(reference) = &*argument.ty {
            return fault(
                reference.span(),
                "an input is owned: a reference can only be `task: &mut Task`",
            );
        }
        let Pat::Ident(name) = &*argument.pat else {
            return fault(argument.pat.span(), "an input needs a name");
        };
        arguments.push(Argument {
            name: name.ident.clone(),
            kind: (*argument.ty).clone(),
        });
    }
    Ok(Signature {
        takes_task,
        arguments,
    })
}

fn is_task(kind: &Type) -> bool {
    matches!(kind, Type::Reference(reference)
        if matches!(&*reference.elem, Type::Path(path)
            if path.path.segments.last().is_some_and(|last| last.ident == "Task")))
}

/// The beginning of the note, which is known when the macro is expanded.
fn head(attributes: &Attributes, function: &ItemFn, operation: &str, domain: &str) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let level = attributes
        .level
        .as_deref()
        .map_or_else(|| "null".to_owned(), json_string);
    format!(
        "{{\"name\":{},\"domain\":{},\"timeout_ms\":{},\"max_attempts\":{},\"backoff_ms\":{},\
         \"memory_bytes\":{},\"cpu_ms\":{},\"open_files\":{},\"capture\":{},\"level\":{level},\"description\":{},\"async\":{},\
         \"requires_minor\":{}",
        json_string(operation),
        json_string(domain),
        number(attributes.timeout_ms),
        attributes.max_attempts.unwrap_or(1),
        number(attributes.backoff_ms),
        number(attributes.memory_bytes),
        number(attributes.cpu_ms),
        number(attributes.open_files.map(u64::from)),
        json_string(attributes.capture.as_deref().unwrap_or("all")),
        json_string(&description(&function.attrs)),
        function.sig.asyncness.is_some(),
        attributes
            .requires
            .as_ref()
            .map_or(0, |requires| requires.minor),
    )
}

/// Refuses an operation that requires a later ABI than that of the SDK it is built with.
fn check_requirement(attributes: &Attributes) -> TokenStream {
    let Some(Requirement { major, minor, span }) = &attributes.requires else {
        return quote!();
    };
    quote_spanned! {*span=>
        const _: () = assert!(
            #major == ::rework_plugin::abi::ABI_MAJOR && #minor <= ::rework_plugin::abi::ABI_MINOR,
            "this rework-plugin does not know that version of the plugin ABI"
        );
    }
}

/// The declarations of the inputs, as an expression of type `&'static str`.
fn inputs_spec(signature: &Signature) -> TokenStream {
    if signature.arguments.is_empty() {
        // An operation that takes the task reads its input itself; one without arguments has no input.
        return if signature.takes_task {
            quote!("null")
        } else {
            quote!("[]")
        };
    }
    if let [only] = signature.arguments.as_slice() {
        let kind = &only.kind;
        let as_input = quote_spanned!(kind.span()=> <#kind as ::rework_plugin::io::Input>);
        let listed = joined(&[field_parts(&unraw(&only.name), &as_input, None)]);
        return quote!({
            const LISTED: &str = #listed;
            // The only argument may be a struct that stands for all inputs.
            match #as_input::SPEC {
                Some(fields) => fields,
                None => LISTED,
            }
        });
    }
    let fields: Vec<TokenStream> = signature
        .arguments
        .iter()
        .map(|argument| field_parts(&unraw(&argument.name), &as_field(&argument.kind), None))
        .collect();
    joined(&fields)
}

/// A type as a field of an input, with the type's span, so that errors point at the type.
pub(crate) fn as_field(kind: &Type) -> TokenStream {
    quote_spanned!(kind.span()=> <#kind as ::rework_plugin::io::InputField>)
}

/// The parts of one field's declaration; `field` is its type as the trait that describes it.
pub(crate) fn field_parts(name: &str, field: &TokenStream, limits: Option<&Limits>) -> TokenStream {
    let open = format!("{{\"name\":{},\"type\":\"", json_string(name));
    let choices = limits.map_or_else(|| "null".to_owned(), Limits::choices);
    let default = limits.map_or_else(|| "null".to_owned(), Limits::default);
    let has_default = default != "null";
    let close = format!(",\"choices\":{choices},\"default\":{default}}}");
    quote! {
        #open,
        #field::KIND,
        "\",\"required\":",
        ::rework_plugin::export::boolean(#field::REQUIRED && !#has_default),
        #close
    }
}

/// Fields as one JSON array, composed at compile time.
pub(crate) fn joined(fields: &[TokenStream]) -> TokenStream {
    let separated = fields.iter().enumerate().map(|(place, field)| {
        if place == 0 {
            quote!(#field)
        } else {
            quote!(",", #field)
        }
    });
    quote!({
        const FIELDS: &[&str] = &["[", #(#separated,)* "]"];
        const BYTES: [u8; ::rework_plugin::export::length(FIELDS)] =
            ::rework_plugin::export::concat(FIELDS);
        ::rework_plugin::export::text(&BYTES)
    })
}

/// Statements that take the arguments from the input.
fn takes(signature: &Signature) -> TokenStream {
    if signature.arguments.is_empty() {
        return quote!();
    }
    let takes = signature
        .arguments
        .iter()
        .enumerate()
        .map(|(place, Argument { name, kind })| {
            let variable = format_ident!("argument_{place}");
            let name = unraw(name);
            let trait_of = if signature.arguments.len() == 1 {
                quote!(Input)
            } else {
                quote!(InputField)
            };
            let take =
                quote_spanned!(kind.span()=> <#kind as ::rework_plugin::io::#trait_of>::take);
            quote!(let #variable = #take(#name, &mut fields, task)?;)
        });
    quote! {
        let mut fields = export::fields(task)?;
        #(#takes)*
    }
}

fn call(function: &ItemFn, signature: &Signature) -> TokenStream {
    let name = &function.sig.ident;
    let task = signature.takes_task.then(|| quote!(task,));
    let arguments = (0..signature.arguments.len()).map(|place| format_ident!("argument_{place}"));
    let call = quote!(#name(#task #(#arguments),*));
    if function.sig.asyncness.is_some() {
        quote!(export::block_on(#call)?)
    } else {
        call
    }
}

/// The return type of the function.
fn returned(function: &ItemFn) -> TokenStream {
    match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, kind) => quote!(#kind),
    }
}
