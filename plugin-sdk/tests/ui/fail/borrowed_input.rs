use rework_plugin::prelude::*;

#[operation]
fn import(name: &str) {
    println!("{name}");
}

fn main() {}
