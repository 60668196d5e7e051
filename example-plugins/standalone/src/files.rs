//! Files in and out.

use rework_plugin::prelude::*;

#[derive(Outputs)]
struct Reversed {
    bytes: usize,
    reversed: File,
}

/// Turns a file around, byte by byte.
#[operation(domain = "standalone")]
fn reverse(file: File) -> Reversed {
    log::info!("reversing {} bytes", file.len());
    let mut bytes = file.to_vec();
    bytes.reverse();
    Reversed {
        bytes: bytes.len(),
        reversed: bytes.into(),
    }
}

/// Gives raw bytes back as they came.
#[operation(domain = "standalone")]
fn echo(task: &mut Task) -> Result<()> {
    let bytes = task.raw_input().to_vec();
    task.save_raw_output(&bytes)
}

#[cfg(test)]
mod tests {
    use rework_plugin::testing;

    #[test]
    fn the_last_byte_comes_first() {
        let outcome = testing::task("reverse").file("file", *b"abc").run();
        assert_eq!(outcome.files["reversed"], b"cba");
        assert_eq!(outcome.output.unwrap()["bytes"], 3);
    }

    #[test]
    fn raw_bytes_are_left_alone() {
        let outcome = testing::task("echo").raw_input([0, 255, 10]).run();
        assert_eq!(outcome.raw_output.unwrap(), [0, 255, 10]);
    }
}
