//! The macros of `rework-plugin`: `#[operation]`, `#[derive(Inputs)]`, `#[derive(Outputs)]`.
//! Use them through that crate, which documents them.

mod expand;
mod parse;
mod structs;

use proc_macro::TokenStream;

/// Makes a function an operation of the plugin.
///
/// The function takes `task: &mut Task`, or named inputs, or the task and then inputs; a struct
/// with `#[derive(Inputs)]` stands for all of them. What it returns (or its `Result`) is the
/// output. Its doc comment becomes the operation's description.
///
/// | attribute | meaning | example |
/// |---|---|---|
/// | `name` | instead of the function's name | `name = "import"` |
/// | `domain` | instead of `default` | `domain = "maths"` |
/// | `timeout` | the task is killed after this | `timeout = "3m"`, `"PT3M"` |
/// | `max_attempts` | failures and deaths are tried again | `max_attempts = 3` |
/// | `backoff` | the pause before the second attempt, doubled each time | `backoff = "10s"` |
/// | `memory` | what the task and all that it starts may use | `memory = "512MB"` |
/// | `cpu` | processor time, likewise | `cpu = "10s"` |
/// | `files` | how many files each of its processes may open | `files = 64` |
/// | `capture` | `all`, `logs`, `manual` or `none` of its output | `capture = "logs"` |
/// | `level` | lowest level of log records to keep | `level = "debug"` |
/// | `requires` | older hosts (by their plugin ABI) do not register it | `requires = "1.1"` |
#[proc_macro_attribute]
pub fn operation(attributes: TokenStream, item: TokenStream) -> TokenStream {
    expand::operation(attributes.into(), item.into())
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// Makes a struct the inputs of an operation: a field each. `#[input(name = "…", choices = […],
/// default = …)]` on a field says more; an `Option` or a default makes it optional.
#[proc_macro_derive(Inputs, attributes(input))]
pub fn inputs(item: TokenStream) -> TokenStream {
    structs::inputs(item.into())
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// Makes a struct the outputs of an operation: a field each. `#[output(name = "…")]` renames one.
#[proc_macro_derive(Outputs, attributes(output))]
pub fn outputs(item: TokenStream) -> TokenStream {
    structs::outputs(item.into())
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}
