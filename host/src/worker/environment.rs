//! The environment of the worker's process, restored after each task.
//!
//! It is restored by pointing C's `environ` to a table that is never freed. A thread of the plugin that
//! reads the environment meanwhile sees either the old or the restored one.

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
    fn tzset();
}

/// The environment variables that a worker begins with.
#[derive(Debug)]
pub(super) struct Environment {
    /// The variables as C strings, `NAME=value` each.
    strings: Vec<*mut libc::c_char>,
    /// A table for `environ`, with a null pointer at its end. C's `setenv` may write into it.
    table: &'static mut [*mut libc::c_char],
}

impl Environment {
    /// The environment as it is now.
    pub(super) fn now() -> Self {
        let strings = strings();
        let table = strings
            .iter()
            .copied()
            .chain([std::ptr::null_mut()])
            .collect::<Box<[_]>>();
        Self {
            strings,
            table: Box::leak(table),
        }
    }

    /// Restores the environment.
    pub(super) fn restore(&mut self) {
        if self.is_unchanged() {
            return;
        }
        for (place, string) in self.table.iter_mut().zip(&self.strings) {
            *place = *string;
        }
        let end = self.table.len() - 1;
        self.table[end] = std::ptr::null_mut();
        // SAFETY: the table lives for ever and ends with a null pointer; the strings existed when this
        // worker began, and the C library frees none.
        unsafe { environ = self.table.as_mut_ptr() };
        // SAFETY: reads the environment. It is called because `TZ` may be among the changed variables.
        unsafe { tzset() };
    }

    fn is_unchanged(&self) -> bool {
        // SAFETY: reads a pointer.
        let mut at = unsafe { environ };
        if at.is_null() {
            return self.strings.is_empty();
        }
        for string in self.strings.iter().map(|string| string.cast_const()) {
            // SAFETY: `at` is within the table, whose end has not been seen yet.
            if unsafe { *at }.cast_const() != string {
                return false;
            }
            // SAFETY: there is at least the null pointer after a string.
            at = unsafe { at.add(1) };
        }
        // SAFETY: as above.
        unsafe { *at }.is_null()
    }
}

/// The strings that `environ` points to.
fn strings() -> Vec<*mut libc::c_char> {
    let mut found = Vec::new();
    // SAFETY: reads a pointer.
    let mut at = unsafe { environ };
    while !at.is_null() {
        // SAFETY: `at` is within the table, whose end has not been seen yet.
        let string = unsafe { *at };
        if string.is_null() {
            break;
        }
        found.push(string);
        // SAFETY: there is at least the null pointer after a string.
        at = unsafe { at.add(1) };
    }
    found
}
