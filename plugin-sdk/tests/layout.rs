//! What plugin ABI 1.0 froze, for ever: the place and the type of every field. Later minors append,
//! and this file grows with them; a line that has to change breaks every plugin that was built.

use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RString, RVec};
use rework_plugin::abi::{Context, Host, HostRef, Operation, OperationRef, Payload, Plugin};
use std::mem::{offset_of, size_of};

const WORD: usize = size_of::<usize>();

#[test]
fn fields_stay_where_they_are() {
    assert_eq!(
        [
            offset_of!(Plugin, abi_major),
            offset_of!(Plugin, abi_minor),
            offset_of!(Plugin, operations),
        ],
        [0, 4, 8]
    );
    assert_eq!(
        [
            offset_of!(Operation, name),
            offset_of!(Operation, domain),
            offset_of!(Operation, run),
        ],
        [0, 2 * WORD, 4 * WORD]
    );
    assert_eq!(
        [offset_of!(Payload, encoding), offset_of!(Payload, bytes)],
        [0, WORD]
    );
    assert_eq!(
        [
            size_of::<Payload>(),
            size_of::<Context>(),
            size_of::<RStr<'_>>()
        ],
        [3 * WORD, WORD, 2 * WORD]
    );
    let since_1_0 = [
        offset_of!(Host, task),
        offset_of!(Host, input),
        offset_of!(Host, input_file),
        offset_of!(Host, save_output),
        offset_of!(Host, save_output_file),
        offset_of!(Host, log),
        offset_of!(Host, progress),
        offset_of!(Host, cancelled),
        offset_of!(Host, schedule),
        offset_of!(Host, capture),
        offset_of!(Host, panicking),
        offset_of!(Host, fail),
    ];
    let since_1_1 = [offset_of!(Host, schedule_raw)];
    for (place, offset) in since_1_0.into_iter().chain(since_1_1).enumerate() {
        assert_eq!(offset, place * WORD, "field {place} of the host's table");
    }
}

/// Never called: that it compiles is what counts.
#[expect(dead_code, reason = "types are compared when this is compiled")]
fn types_stay_what_they_are(plugin: &Plugin, operation: &Operation, host: &Host) {
    let _: u32 = plugin.abi_major;
    let _: u32 = plugin.abi_minor;
    let _: extern "C" fn() -> RVec<OperationRef> = plugin.operations;
    let _: RStr<'static> = operation.name;
    let _: RStr<'static> = operation.domain;
    let _: extern "C" fn(HostRef, Context) -> i32 = operation.run;
    let _: extern "C" fn(Context) -> RStr<'static> = host.task;
    let _: extern "C" fn(Context) -> Payload = host.input;
    let _: extern "C" fn(Context, RStr<'_>) -> ROption<RSlice<'static, u8>> = host.input_file;
    let _: extern "C" fn(Context, u8, RSlice<'_, u8>) = host.save_output;
    let _: extern "C" fn(Context, RStr<'_>, RSlice<'_, u8>) = host.save_output_file;
    let _: extern "C" fn(Context, u8, RStr<'_>, RStr<'_>) = host.log;
    let _: extern "C" fn(Context, f64, RStr<'_>) = host.progress;
    let _: extern "C" fn(Context) -> bool = host.cancelled;
    let _: extern "C" fn(Context, RStr<'_>) -> RResult<i64, RString> = host.schedule;
    let _: extern "C" fn(Context, u32, u8, bool) -> u32 = host.capture;
    let _: extern "C" fn(Context, RStr<'_>) = host.panicking;
    let _: extern "C" fn(Context, RStr<'_>) = host.fail;
    let _: extern "C" fn(Context, RStr<'_>, RSlice<'_, u8>) -> RResult<i64, RString> =
        host.schedule_raw;
}
