//! A plugin that never finishes loading, where it is told to: a probe, which has no environment, finds
//! nothing wrong with it.

/// Runs when the file is loaded, before anybody has called anything.
extern "C" fn on_load() {
    if std::env::var_os("MISBEHAVE_ON_LOAD").is_some_and(|how| how == "hang") {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;
