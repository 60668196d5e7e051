use rework_plugin::prelude::*;

#[operation]
fn import<T: Into<i64>>(number: T) {
    let _: i64 = number.into();
}

fn main() {}
