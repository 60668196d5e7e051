//! Prints what it is told to, however it is cut and whenever.

use rework_plugin::prelude::*;
use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

/// Prints the `parts` of its input as they are, each `pause` seconds after the one before, and, with
/// `until_cancelled`, goes on until it is asked to end.
#[operation(domain = "misbehaving")]
fn print_parts(task: &mut Task) -> Result<()> {
    let order: Value = task.input()?;
    if order["until_cancelled"] == true {
        // Whoever has asked once is asked to end, and not killed.
        task.cancelled();
    }
    let pause = Duration::from_secs_f64(order["pause"].as_f64().unwrap_or(0.0));
    for part in order["parts"].as_array().ok_or("no parts")? {
        let part = part.as_str().ok_or("a part is a string")?;
        if order["stderr"] == true {
            std::io::stderr().write_all(part.as_bytes())?;
        } else {
            print(part)?;
        }
        thread::sleep(pause);
    }
    let begun = Instant::now();
    while order["until_cancelled"] == true && begun.elapsed() < Duration::from_secs(60) {
        if task.cancelled() {
            return print("\r100%\n");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// More lines than are kept, and then what they were printed for.
#[operation(domain = "misbehaving")]
fn flood_and_fail() -> Result<()> {
    for number in 0..200_000 {
        println!("line {number} of a flood");
    }
    println!("residual 1e-3, not converged");
    Err("did not converge".into())
}
