use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    #[input(choices = ["small", "large"], default = "medium")]
    size: String,
}

fn main() {}
