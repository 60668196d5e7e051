use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    #[input(choices = ["small", 2])]
    size: String,
}

fn main() {}
