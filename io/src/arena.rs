//! One reservation of memory for everything that the engine caches.
//!
//! The address space is taken at once and never moves; the kernel commits pages as they are first
//! touched. So a budget holds by construction, and a place in it can be named by an offset.

use crate::sys::Mapping;
use esker_base::{Error, Result};
use std::io;
use std::ptr::NonNull;

/// Size of a huge page on x86-64, and the alignment of [`Arena::base`].
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A stretch of zeroed private memory, unmapped on drop.
#[derive(Debug)]
pub struct Arena {
    /// Larger than asked for, so that an aligned stretch lies within.
    mapping: Mapping,
    base: NonNull<u8>,
    bytes: usize,
}

impl Arena {
    /// Reserves at least `bytes`, in whole huge pages, and advises the kernel to use such.
    ///
    /// # Errors
    /// `Io` of kind `OutOfMemory` if the address space is limited.
    pub fn reserve(bytes: usize) -> Result<Self> {
        Self::reserve_with(bytes, true)
    }

    /// As [`Arena::reserve`]; without huge pages the first touch of a place commits 4 KiB rather
    /// than 2 MiB, which suits small or sparse use.
    pub fn reserve_with(bytes: usize, huge_pages: bool) -> Result<Self> {
        let error = |source| Error::from_io("reserve memory", "arena", 0, source);
        let bytes = bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES);
        let (bytes, padded) = bytes
            .and_then(|bytes| Some((bytes, bytes.checked_add(HUGE_PAGE_BYTES)?)))
            .ok_or_else(|| error(io::ErrorKind::OutOfMemory.into()))?;
        let mapping = Mapping::anonymous(padded).map_err(error)?;
        let skip = mapping.base().align_offset(HUGE_PAGE_BYTES);
        #[cfg(target_os = "linux")]
        {
            let advice = if huge_pages { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
            // A kernel without huge pages refuses the advice; the memory is as good.
            let _advised: Result<(), io::Error> = mapping.advise(skip, bytes, advice);
        }
        let base = mapping.pointer_at(skip);
        Ok(Self { mapping, base, bytes })
    }

    /// Commits the memory of a stretch, so that the first touch of it does not wait for the kernel to clear it. Does
    /// not change what is there, so others may use it meanwhile. False if the kernel cannot.
    ///
    /// # Panics
    /// If the stretch lies outside.
    pub fn populate(&self, at: usize, bytes: usize) -> bool {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "a stretch outside the arena");
        #[cfg(target_os = "linux")]
        {
            let skip = self.base.as_ptr().addr() - self.mapping.base().as_ptr().addr();
            self.mapping.advise(skip + at, bytes, libc::MADV_POPULATE_WRITE).is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Gives the memory of a stretch back to the system: it holds zeroes, and takes memory again when it is touched. False, with
    /// nothing changed, if the system cannot do that, as where the stretch is not made of whole pages.
    ///
    /// # Safety
    /// Nobody has a reference into the stretch to what is not an atomic, and who reads or changes atomics there bears their
    /// becoming zero at any moment of the call.
    ///
    /// # Panics
    /// If the stretch lies outside.
    #[allow(unsafe_code, reason = "the caller answers for who uses the memory")]
    pub unsafe fn give_back(&self, at: usize, bytes: usize) -> bool {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "a stretch outside the arena");
        #[cfg(target_os = "linux")]
        {
            let skip = self.base.as_ptr().addr() - self.mapping.base().as_ptr().addr();
            self.mapping.advise(skip + at, bytes, libc::MADV_DONTNEED).is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// First byte; a multiple of [`HUGE_PAGE_BYTES`].
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes from [`Arena::base`] on that may be used.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[allow(unsafe_code, reason = "the type owns its memory and lends out no more than its address")]
mod shared {
    // SAFETY: `base` points into the mapping that the value owns; the memory belongs to no thread, and
    // whoever dereferences the pointer answers for races.
    unsafe impl Send for super::Arena {}
    // SAFETY: as above; `&Arena` gives out a pointer and a length, nothing more.
    unsafe impl Sync for super::Arena {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_as_large_as_asked() {
        for huge_pages in [false, true] {
            let large = if cfg!(miri) { 4 * HUGE_PAGE_BYTES } else { 1 << 30 };
            for bytes in [0, 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, large] {
                let arena = Arena::reserve_with(bytes, huge_pages).unwrap();
                assert_eq!(arena.base().align_offset(HUGE_PAGE_BYTES), 0);
                assert!(arena.bytes() >= bytes.max(HUGE_PAGE_BYTES));
            }
        }
    }

    #[test]
    #[allow(unsafe_code, reason = "the only way to use an arena")]
    fn populating_keeps_what_is_there() {
        let arena = Arena::reserve(4 * HUGE_PAGE_BYTES).unwrap();
        // SAFETY: inside the arena; no other thread uses it.
        let place = unsafe { arena.base().add(HUGE_PAGE_BYTES + 5) };
        // SAFETY: as above.
        unsafe { place.write(7) };
        for at in 0..4 {
            arena.populate(at * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES);
        }
        // SAFETY: as above.
        assert_eq!(unsafe { place.read() }, 7);
        // SAFETY: as above.
        let next = unsafe { place.add(1) };
        // SAFETY: as above; the memory is zeroed.
        assert_eq!(unsafe { next.read() }, 0);
    }

    /// Bytes of this process that are in memory.
    #[cfg(target_os = "linux")]
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "the interpreter keeps all memory")]
    #[allow(unsafe_code, reason = "the only way to use an arena")]
    fn what_is_given_back_is_gone_and_can_be_used_again() {
        let mib = 1 << 20;
        let arena = Arena::reserve(256 * mib).unwrap();
        assert!(arena.populate(0, 256 * mib), "Linux 5.14 and later");
        // SAFETY: inside the arena; no other thread uses it.
        let place = |at: usize| unsafe { arena.base().add(at) };
        for at in [0, 100 * mib] {
            // SAFETY: as above.
            unsafe { place(at).write(7) };
        }
        let before = resident_bytes();
        // SAFETY: nobody has a reference into it.
        assert!(unsafe { arena.give_back(16 * mib, 240 * mib) });
        let after = resident_bytes();
        // Other tests may take some meanwhile.
        assert!(after + 128 * mib < before, "{before} bytes were in memory, {after} are");
        // SAFETY: as above; the memory is zeroed.
        assert_eq!([0, 100 * mib].map(|at| unsafe { place(at).read() }), [7, 0]);
        // SAFETY: as above.
        unsafe { place(100 * mib).write(8) };
        // SAFETY: as above.
        assert_eq!(unsafe { place(100 * mib).read() }, 8);
        // SAFETY: nobody has a reference into it.
        assert!(!unsafe { arena.give_back(1, 4096) }, "no whole page");
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(matches!(Arena::reserve(usize::MAX), Err(Error::Io { .. })));
        // The interpreter tries, and ends.
        assert!(cfg!(miri) || matches!(Arena::reserve(1 << 60), Err(Error::Io { .. })));
    }

    #[test]
    #[allow(unsafe_code, reason = "the only way to use an arena")]
    fn both_ends_can_be_written_from_another_thread() {
        let arena = Arena::reserve(8 * HUGE_PAGE_BYTES).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for at in [0, arena.bytes() - 1] {
                    // SAFETY: inside the arena; no other thread uses it.
                    let place = unsafe { arena.base().add(at) };
                    // SAFETY: as above; the memory is zeroed.
                    assert_eq!(unsafe { place.read() }, 0);
                    // SAFETY: as above.
                    unsafe { place.write(7) };
                }
            });
        });
    }
}
