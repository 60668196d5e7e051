use rework_plugin::prelude::*;

#[operation(files = 0)]
fn import() {}

fn main() {}
