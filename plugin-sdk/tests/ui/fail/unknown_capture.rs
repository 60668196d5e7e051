use rework_plugin::prelude::*;

#[operation(capture = "stdout")]
fn import() {}

fn main() {}
