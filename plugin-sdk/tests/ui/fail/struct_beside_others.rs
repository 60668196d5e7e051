use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Things {
    name: String,
}

#[operation]
fn import(things: Things, number: i64) {
    println!("{} {number}", things.name);
}

fn main() {}
