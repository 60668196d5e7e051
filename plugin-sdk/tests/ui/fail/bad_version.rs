use rework_plugin::prelude::*;

#[operation(requires = "1")]
fn compute() {}

fn main() {}
