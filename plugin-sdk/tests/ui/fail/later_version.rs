use rework_plugin::prelude::*;

#[operation(requires = "1.99")]
fn compute() {}

fn main() {}
