use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Place {
    latitude: f64,
}

#[operation]
fn import(place: Option<Place>) {
    println!("{}", place.is_some());
}

fn main() {}
