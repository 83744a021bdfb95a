//! The system's allocator, told to keep little: a crowd that left must not cost for ever
//! (`docs/decisions/0008-the-systems-allocator.md`). Elsewhere than with glibc this does nothing.

#![allow(unsafe_code)]

/// What is at least this big is a mapping of its own, which ends when it is freed; and this much may be free
/// at the end of a heap, bytes. glibc begins with both, but raises them to what it sees freed.
#[cfg(target_env = "gnu")]
const THRESHOLD_BYTES: libc::c_int = 128 * 1024;

/// Keeps the allocator from adapting to the largest crowd there ever was. To be called before there is one.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: no pointers; a refusal leaves the allocator as it was.
        unsafe { libc::mallopt(parameter, THRESHOLD_BYTES) };
    }
}

/// Gives free pages back to the system; it takes milliseconds.
pub fn release() {
    // SAFETY: no pointers; it moves nothing.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
