//! The life of a worker: greet the monitor, load the plugin, report ready, run tasks until the goodbye.

use super::{
    capture::Capture,
    context, control, crash, forked,
    leftovers::Leftovers,
    memory::{peak_resident_bytes, resident_bytes},
    memory_trim, network,
    run::run,
};
use crate::{
    causes::chain,
    plugin, signals,
    wire::{
        BlockingSocket, FromWorker, PAGE_FD, Page, SOCKET_FD, ToWorker, WIRE_VERSION, WireError,
        high, marker::Marker,
    },
};
use std::{
    io::Write,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In order: the monitor is alive, and ends what this process leaves behind.
    Agreed,
    /// The monitor has closed the socket: it is gone.
    Alone,
}

/// Runs a worker until its monitor tells it to exit, or is gone.
pub fn main() -> ExitCode {
    match live() {
        Ok(End::Agreed) => ExitCode::SUCCESS,
        Ok(End::Alone) => control::end_with_all_below(),
        Err(error) => {
            // Ignored if nobody reads stderr any more.
            let _ = writeln!(std::io::stderr(), "rework worker: {}", chain(&error));
            control::end_with_all_below()
        }
    }
}

fn live() -> Result<End, WireError> {
    let socket = inherited(SOCKET_FD)?;
    let page = inherited(PAGE_FD)?;
    prepare_process()?;
    let page: &'static Page = Box::leak(Box::new(Page::map(page)?));
    control::watch(socket.as_raw_fd(), page);
    let mut socket = BlockingSocket::new(socket)?;
    let sender = socket.sender();

    let Some((
        ToWorker::Hello {
            version,
            plugin,
            nonce,
            no_network,
        },
        descriptors,
    )) = socket.recv()?
    else {
        return Ok(End::Alone);
    };
    if version != WIRE_VERSION {
        let reason = format!("this worker speaks version {WIRE_VERSION}, its monitor {version}");
        sender.send(FromWorker::Refused(reason), Vec::new())?;
        return Ok(End::Agreed);
    }
    if no_network && let Err(error) = network::give_up() {
        sender.send(FromWorker::Refused(with_source(&error)), Vec::new())?;
        return Ok(End::Agreed);
    }
    let copy = descriptors
        .into_iter()
        .next()
        .ok_or(WireError::Descriptor("missing"))?;
    let copy = keep_open(copy)?;
    // Sent first, because the plugin may end this process while it is loaded.
    sender.send(FromWorker::Loading, Vec::new())?;
    let loaded = match plugin::load(&copy, Path::new(&plugin.name)) {
        Ok(loaded) => loaded,
        Err(error) => {
            sender.send(FromWorker::Refused(error.to_string()), Vec::new())?;
            return Ok(End::Agreed);
        }
    };
    sender.send(FromWorker::Loaded, Vec::new())?;
    signals::restore_after_load();
    // Set again, because the plugin may have reset it: what a task starts must stay below this process.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let marker = Marker::new(nonce);
    let mut capture = Capture::new(marker.clone())?;
    crash::install(page, &plugin)?;
    let context = context::install(socket, page, capture.log_writer());
    memory_trim::Program::find().release_pages();
    let mut leftovers = Leftovers::note()?;
    let ready = FromWorker::Ready {
        version: WIRE_VERSION,
        resident_bytes: resident_bytes(),
        peak_resident_bytes: peak_resident_bytes(),
    };
    context.send(ready, Vec::new())?;

    while let Some((message, mut descriptors)) = context.recv()? {
        match message {
            ToWorker::Run(task) => {
                let finished = run(
                    *task,
                    &mut descriptors,
                    &loaded,
                    context,
                    page,
                    &mut capture,
                    &mut leftovers,
                )?;
                if let Some((mut finished, left_children)) = finished {
                    if left_children {
                        match capture.replace_pipes() {
                            Ok(pipes) => {
                                let task = finished.task;
                                context.send(FromWorker::Pipes { task }, pipes)?;
                            }
                            // Where no descriptor can be opened any more. What the task has returned counts,
                            // and this worker, whose output its children share, runs nothing more.
                            Err(error) => {
                                finished.left_behind.get_or_insert_with(|| chain(&error));
                                leftovers.run_nothing_more();
                            }
                        }
                    }
                    context.send(FromWorker::Finished(Box::new(finished)), Vec::new())?;
                }
            }
            ToWorker::Goodbye => {
                context.send(FromWorker::Goodbye, Vec::new())?;
                return Ok(End::Agreed);
            }
            ToWorker::Hello { .. } | ToWorker::Scheduled(_) => {}
        }
    }
    Ok(End::Alone)
}

/// The path of a plugin that came as a descriptor. The descriptor stays open, since a backtrace opens the
/// path again.
fn keep_open(descriptor: OwnedFd) -> Result<PathBuf, WireError> {
    let kept = high(descriptor)?.into_raw_fd();
    Ok(PathBuf::from(format!("/proc/self/fd/{kept}")))
}

fn with_source(error: &WireError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Moves an inherited descriptor to a number that no operation closes by accident.
fn inherited(fd: RawFd) -> Result<OwnedFd, WireError> {
    // SAFETY: the descriptor was inherited for this purpose; nothing else in this process uses it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
    high(descriptor)
}

/// Sets the attributes of the process that every worker has.
fn prepare_process() -> Result<(), WireError> {
    use nix::sys::{prctl, resource};
    let failed = WireError::system("set up the worker process");
    forked::this_is_the_worker();
    signals::leave_to_monitor();
    crash::note_actions();
    // Whatever a task starts stays below this process, however it forks.
    prctl::set_child_subreaper(true).map_err(&failed)?;
    prctl::set_no_new_privs().map_err(&failed)?;
    prctl::set_name(c"rework-worker").map_err(&failed)?;
    // No core files. A limit of 0 would not stop cores that are piped to a handler; a limit of 1 does.
    let (_, hard) = resource::getrlimit(resource::Resource::RLIMIT_CORE).map_err(&failed)?;
    resource::setrlimit(resource::Resource::RLIMIT_CORE, 1.min(hard), 1.min(hard))
        .map_err(&failed)?;
    Ok(())
}
