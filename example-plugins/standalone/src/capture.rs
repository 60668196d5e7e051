//! Choosing what of the output is kept.

use rework_plugin::prelude::*;

/// Keeps what it says so itself: first nothing, then records, then prints as well.
#[operation(domain = "standalone", capture = "manual")]
fn choosy(task: &mut Task) -> Result<()> {
    println!("printed before");
    log::error!("logged before");
    {
        let _records = task.capture_logs(Level::Warn, false);
        println!("printed in the first scope");
        log::warn!("a warning in the first scope");
        log::info!("below the level of the first scope");
        let _everything = task.capture_logs(Level::Debug, true);
        println!("printed in the second scope");
        log::debug!("a detail in the second scope");
    }
    log::error!("logged after");
    println!("printed after");
    task.save_output("done")
}

/// Prints lines of this many bytes.
#[operation(domain = "standalone")]
fn long_lines(count: usize, width: usize) {
    for number in 0..count {
        println!("{number} {}", "x".repeat(width));
    }
}

/// Logs and prints; only the records are kept.
#[operation(domain = "standalone", capture = "logs")]
fn records_only() {
    println!("printed");
    log::info!("logged");
}

/// Logs and prints; nothing is kept.
#[operation(domain = "standalone", capture = "none")]
fn discreet(task: &mut Task) {
    let _scope = task.capture_logs(Level::Trace, true);
    println!("printed");
    log::info!("logged");
}
