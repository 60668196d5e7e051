use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    #[input(default = "heavy")]
    weight: f64,
}

fn main() {}
