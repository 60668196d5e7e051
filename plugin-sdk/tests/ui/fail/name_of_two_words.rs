use rework_plugin::prelude::*;

#[operation(name = "import all")]
fn import() {}

fn main() {}
