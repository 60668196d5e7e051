use rework_plugin::prelude::*;

struct Importer;

impl Importer {
    #[operation]
    fn import(&self) {}
}

fn main() {}
