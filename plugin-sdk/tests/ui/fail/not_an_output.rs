use rework_plugin::prelude::*;

#[operation]
fn import() -> std::time::Instant {
    std::time::Instant::now()
}

fn main() {}
