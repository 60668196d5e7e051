use rework_plugin::prelude::*;

#[operation]
async fn wait() {}

fn main() {}
