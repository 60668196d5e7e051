use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    #[input(optional)]
    number: i64,
}

fn main() {}
