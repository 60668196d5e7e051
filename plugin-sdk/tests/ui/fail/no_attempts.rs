use rework_plugin::prelude::*;

#[operation(max_attempts = 0)]
fn import() {}

fn main() {}
