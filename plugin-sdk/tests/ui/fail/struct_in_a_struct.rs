use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Place {
    latitude: f64,
}

#[derive(Inputs)]
struct Things {
    place: Place,
}

fn main() {}
