use rework_plugin::prelude::*;

#[derive(Inputs)]
enum Things {
    One,
}

fn main() {}
