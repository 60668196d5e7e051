//! The environment of the worker's process, as it was before a task.
//!
//! It is put back by pointing C's `environ` to a table of our own. Nothing is freed, so a thread of the
//! plugin that reads the environment meanwhile reads the one or the other.

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
    fn tzset();
}

/// The variables that a worker begins with.
#[derive(Debug)]
pub(super) struct Environment {
    /// The strings, `NAME=value` each.
    strings: Vec<*mut libc::c_char>,
    /// A table for `environ`, with a null pointer at its end. C's `setenv` may write into it.
    table: &'static mut [*mut libc::c_char],
}

impl Environment {
    /// As it is.
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

    /// Makes it so again.
    pub(super) fn restore(&mut self) {
        if self.is_unchanged() {
            return;
        }
        for (place, string) in self.table.iter_mut().zip(&self.strings) {
            *place = *string;
        }
        let end = self.table.len() - 1;
        self.table[end] = std::ptr::null_mut();
        // SAFETY: the table lives for ever and ends with a null pointer; the strings were there
        // when this worker began, and C frees none.
        unsafe { environ = self.table.as_mut_ptr() };
        // SAFETY: reads the environment, for the time zone may have been among what was changed.
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
