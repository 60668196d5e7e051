use rework_plugin::prelude::*;

#[operation]
fn import(things: Value) {
    println!("{things}");
}

fn main() {}
