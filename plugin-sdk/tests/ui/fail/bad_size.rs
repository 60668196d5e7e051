use rework_plugin::prelude::*;

#[operation(memory = "a lot")]
fn compute() {}

fn main() {}
