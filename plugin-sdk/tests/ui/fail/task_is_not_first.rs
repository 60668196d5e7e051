use rework_plugin::prelude::*;

#[operation]
fn import(number: i64, task: &mut Task) {
    task.progress(number as f64, "half");
}

fn main() {}
