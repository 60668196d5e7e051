use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    #[input(choices = [1 + 1])]
    number: i64,
}

fn main() {}
