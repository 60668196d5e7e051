//! A plugin that never finishes loading, ends its process, or handles faults itself, where it is told to: a probe, which has no environment, finds
//! nothing wrong with it.

/// Runs when the file is loaded, before anybody has called anything.
extern "C" fn on_load() {
    let how = std::env::var_os("MISBEHAVE_ON_LOAD");
    match how.as_ref().and_then(|how| how.to_str()) {
        Some("hang") => std::thread::sleep(std::time::Duration::from_secs(3600)),
        Some("handler") => crate::faults::install(),
        Some("fork") => {
            // SAFETY: both processes return and do nothing else here.
            unsafe { libc::fork() };
        }
        Some("exit") => std::process::exit(7),
        _ => {}
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;
