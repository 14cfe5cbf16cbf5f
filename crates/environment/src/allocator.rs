//! How the C library's allocator treats large buffers.

/// Has freed memory kept for what comes next, up to 256 MiB, instead of given back to the system at once.
///
/// An epoch's columns are megabytes long. By default such buffers come fresh from the system each time, whose zeroing of
/// pages then takes a fifth of the time of a step. To be called first in `main`; without effect elsewhere than on glibc.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        const FROM_SYSTEM_BYTES_MIN: i32 = 64 << 20;
        const KEPT_BYTES_MAX: i32 = 256 << 20;
        // SAFETY: mallopt takes two plain numbers, locks what it changes, and leaves what is allocated as it is.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_SYSTEM_BYTES_MIN);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        }
    }
}
