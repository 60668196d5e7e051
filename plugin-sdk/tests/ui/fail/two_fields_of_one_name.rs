use rework_plugin::prelude::*;

#[derive(Outputs)]
struct Things {
    name: String,
    #[output(name = "name")]
    other: String,
}

fn main() {}
