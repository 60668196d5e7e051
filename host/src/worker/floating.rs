//! The floating-point modes of this thread: the rounding mode, whether subnormal numbers count as zero, and
//! which exceptions raise signals.

/// The control registers of the floating-point units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    #[cfg(target_arch = "x86_64")]
    mxcsr: u32,
    #[cfg(target_arch = "x86_64")]
    x87: u16,
    #[cfg(target_arch = "aarch64")]
    fpcr: u64,
}

#[cfg(target_arch = "x86_64")]
impl Modes {
    /// The registers as they are now.
    pub(super) fn now() -> Self {
        let (mut mxcsr, mut x87) = (0_u32, 0_u16);
        // SAFETY: stores four bytes into a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
        // SAFETY: stores two bytes into a local.
        unsafe { std::arch::asm!("fnstcw [{}]", in(reg) &raw mut x87, options(nostack)) };
        Self { mxcsr, x87 }
    }

    /// Restores the registers. The x87 unit is emptied too: after MMX code that has not cleaned up, each of
    /// its calculations would give NaN.
    pub(super) fn restore(self) {
        // SAFETY: loads what was stored by `now`; Rust's own code expects just these modes.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const self.mxcsr, options(nostack)) };
        // SAFETY: empties the x87 registers, which between two calls hold nothing, loads the control
        // word that was stored by `now`, and lets strings run upwards, as every call expects.
        unsafe {
            std::arch::asm!(
                "fninit",
                "fldcw [{}]",
                "cld",
                in(reg) &raw const self.x87,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack)
            );
        };
    }
}

#[cfg(target_arch = "aarch64")]
impl Modes {
    /// The registers as they are now.
    pub(super) fn now() -> Self {
        let fpcr: u64;
        // SAFETY: reads a register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nostack, nomem)) };
        Self { fpcr }
    }

    /// Restores the registers.
    pub(super) fn restore(self) {
        // SAFETY: loads what was read by `now`; Rust's own code expects just these modes.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) self.fpcr, options(nostack, nomem)) };
    }
}

/// On other architectures the registers are unknown.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Modes {
    pub(super) fn now() -> Self {
        Self {}
    }

    pub(super) fn restore(self) {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn modes_come_back() {
        let before = Modes::now();
        // Towards zero, and without subnormal numbers.
        let mxcsr = before.mxcsr | 0xe040;
        // SAFETY: valid bits; put back below, before anything calculates.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
        let changed = Modes::now();
        before.restore();
        let after = Modes::now();
        assert_eq!(changed.mxcsr & 0xe040, 0xe040);
        assert_eq!(
            (after.mxcsr & 0xffc0, after.x87),
            (before.mxcsr & 0xffc0, before.x87)
        );
    }
}
