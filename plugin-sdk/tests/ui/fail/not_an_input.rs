use rework_plugin::prelude::*;

#[operation]
fn import(place: std::net::IpAddr, number: i64) {
    println!("{place} {number}");
}

fn main() {}
