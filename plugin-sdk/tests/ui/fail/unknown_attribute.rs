use rework_plugin::prelude::*;

#[operation(retries = 3)]
fn import() {}

fn main() {}
