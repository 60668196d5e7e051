use rework_plugin::prelude::*;

#[operation(timeout = "3x")]
fn wait() {}

fn main() {}
