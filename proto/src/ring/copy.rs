//! The racing copy: moves bytes into and out of payload that another process may be reading or
//! writing.
//!
//! Contract: a copy may be torn but is never out of bounds. The caller validates the claim line
//! afterwards and discards torn bytes. `DESIGN.md` ("The racing copy") argues why this is sound: a
//! move is either a series of relaxed atomic words (loom, and machines other than x86-64), or
//! assembler, of which the compiler knows only that it accesses memory.

#![allow(unsafe_code)]

use crate::sync::AtomicU64;
use std::marker::PhantomData;
use std::ptr::NonNull;

#[cfg(all(not(any(ringweir_loom, ringweir_tsan)), target_arch = "x86_64"))]
use moves as raw;
#[cfg(all(ringweir_tsan, not(ringweir_loom)))]
use plain as raw;

/// Prefetches the cache line at `address`, where the machine supports it. Any address is allowed.
#[cfg(not(ringweir_loom))]
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and cannot fault, whatever the
    // address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The payload area of a ring.
#[derive(Clone, Copy)]
pub(super) struct Payload<'m> {
    words: NonNull<[AtomicU64]>,
    // `words` is not a reference, because the publisher lends parts of it as `&mut [u8]`.
    _memory: PhantomData<&'m [AtomicU64]>,
}

impl<'m> Payload<'m> {
    /// # Safety
    /// `words` is valid for reads during `'m`, and also for writes if a publisher uses it.
    pub(super) unsafe fn new(words: NonNull<[AtomicU64]>) -> Self {
        Self { words, _memory: PhantomData }
    }

    /// Pointer to the byte at `offset`.
    ///
    /// # Panics
    /// If `offset + len` is outside the payload.
    #[cfg(not(ringweir_loom))]
    #[inline(always)]
    pub(super) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.words.len() * 8),
            "payload range out of bounds"
        );
        // SAFETY: `offset` is inside the payload, by the assertion above.
        unsafe { self.words.as_ptr().cast::<u8>().add(offset) }
    }

    /// Prefetches the line at `offset`. Any offset is allowed.
    #[cfg(not(ringweir_loom))]
    #[inline(always)]
    pub(super) fn prefetch(&self, offset: usize) {
        prefetch(self.words.as_ptr().cast::<u8>().wrapping_add(offset));
    }

    /// Copies `src` to `offset`, which is a multiple of 8. Panics if it does not fit, since the
    /// positions come from the publisher itself.
    #[inline]
    pub(super) fn copy_in(&self, offset: usize, src: &[u8]) {
        #[cfg(all(not(ringweir_loom), any(ringweir_tsan, target_arch = "x86_64")))]
        // SAFETY: `at` checked that the range lies in the payload, which is valid for `'m`; `src`
        // is a private slice of this length, so the two do not overlap.
        unsafe {
            raw::copy(self.at(offset, src.len()), src.as_ptr(), src.len())
        };
        #[cfg(any(ringweir_loom, not(any(ringweir_tsan, target_arch = "x86_64"))))]
        self.words_in(offset, src);
    }

    /// Copies out from `offset`, at any alignment. Panics if out of range, since readers check the
    /// range before they call this.
    #[inline]
    pub(super) fn copy_out(&self, offset: usize, dst: &mut [u8]) {
        #[cfg(all(not(ringweir_loom), any(ringweir_tsan, target_arch = "x86_64")))]
        // SAFETY: `at` checked that the range lies in the payload, which is valid for `'m`; `dst`
        // is a private slice of this length, so the two do not overlap.
        unsafe {
            raw::copy(dst.as_mut_ptr(), self.at(offset, dst.len()), dst.len())
        };
        #[cfg(any(ringweir_loom, not(any(ringweir_tsan, target_arch = "x86_64"))))]
        self.words_out(offset, dst);
    }
}

/// Relaxed atomic words: free of data races by the rules of the language, but half as fast from 1
/// KiB on.
#[cfg(any(ringweir_loom, not(any(ringweir_tsan, target_arch = "x86_64"))))]
mod words {
    use super::Payload;
    use crate::sync::Ordering;

    impl Payload<'_> {
        pub(super) fn words_in(&self, offset: usize, src: &[u8]) {
            assert!(offset.is_multiple_of(8), "payload is written from aligned positions");
            // SAFETY: the words live as long as the ring memory that lent this payload.
            let words = unsafe { self.words.as_ref() };
            for (word, bytes) in
                words[offset / 8..][..src.len().div_ceil(8)].iter().zip(src.chunks(8))
            {
                let mut eight = [0; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
            }
        }

        pub(super) fn words_out(&self, offset: usize, dst: &mut [u8]) {
            // SAFETY: the words live as long as the ring memory that lent this payload.
            let words = unsafe { self.words.as_ref() };
            let mut at = offset;
            let mut rest = dst;
            while !rest.is_empty() {
                let eight = words[at / 8].load(Ordering::Relaxed).to_le_bytes();
                let from = at % 8;
                let n = rest.len().min(8 - from);
                rest[..n].copy_from_slice(&eight[from..from + n]);
                rest = &mut rest[n..];
                at += n;
            }
        }
    }
}

/// The moves for ThreadSanitizer, which cannot see into assembler and does not report races of
/// atomic words. These are plain moves, which race wherever P1 does not order them. They are for
/// tests in which no reader is lapped, since a lapped reader races by design (§6).
#[cfg(ringweir_tsan)]
mod plain {
    /// Copies `len` bytes.
    ///
    /// # Safety
    /// Both ranges are valid for `len` bytes and do not overlap.
    pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: both ranges are valid and do not overlap, as the caller guarantees. Whether
        // another thread races on them is what the test checks.
        unsafe { dst.copy_from_nonoverlapping(src, len) }
    }
}

/// Moves that the compiler cannot see into: 32-byte AVX moves where the machine has AVX, else the
/// 16-byte moves that every x86-64 has.
#[cfg(all(not(any(ringweir_loom, ringweir_tsan)), target_arch = "x86_64"))]
mod moves {
    use core::arch::asm;

    /// Copies `len` bytes.
    ///
    /// # Safety
    /// Both ranges are valid for `len` bytes and do not overlap. Another process may write either
    /// range meanwhile.
    #[inline]
    pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
        match len {
            0 => {}
            // SAFETY: the caller guarantees both ranges, which have 1 to 15 bytes.
            1..16 => unsafe { small(dst, src, len) },
            // SAFETY: the caller guarantees both ranges, which have at least 16 bytes.
            16..256 => unsafe { sse2(dst, src, len) },
            // SAFETY: the caller guarantees both ranges, which have at least 32 bytes; this machine
            // has AVX.
            _ if std::arch::is_x86_feature_detected!("avx") => unsafe { avx(dst, src, len) },
            // SAFETY: the caller guarantees both ranges, which have at least 16 bytes.
            _ => unsafe { sse2(dst, src, len) },
        }
    }

    /// 1 to 15 bytes: two moves of the largest size that fits, overlapping in the middle.
    ///
    /// # Safety
    /// As [`copy`], with 1 to 15 bytes.
    #[inline]
    unsafe fn small(dst: *mut u8, src: *const u8, len: usize) {
        macro_rules! two {
            ($reg:literal, $n:expr) => {
                // SAFETY: $n <= len, so both moves of $n bytes stay inside both ranges.
                unsafe {
                    asm!(
                        concat!("mov {a:", $reg, "}, [{src}]"),
                        concat!("mov {b:", $reg, "}, [{src} + {last}]"),
                        concat!("mov [{dst}], {a:", $reg, "}"),
                        concat!("mov [{dst} + {last}], {b:", $reg, "}"),
                        a = out(reg) _, b = out(reg) _,
                        src = in(reg) src, dst = in(reg) dst, last = in(reg) len - $n,
                        options(nostack, preserves_flags)
                    )
                }
            };
        }
        match len {
            8..16 => two!("r", 8),
            4..8 => two!("e", 4),
            2..4 => two!("x", 2),
            // SAFETY: len is 1, and both ranges are valid for one byte.
            _ => unsafe {
                asm!("mov {a}, [{src}]", "mov [{dst}], {a}", a = out(reg_byte) _,
                    src = in(reg) src, dst = in(reg) dst, options(nostack, preserves_flags))
            },
        }
    }

    /// At least 16 bytes: whole 16-byte moves, then one that ends with the range and may overlap
    /// the previous one.
    ///
    /// # Safety
    /// As [`copy`], with at least 16 bytes.
    #[inline]
    unsafe fn sse2(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: `at` runs over multiples of 64, then 16, while that many bytes remain; the last
        // move starts at len - 16 >= 0. All inside both ranges.
        unsafe {
            asm!(
                "2:",
                "lea {end}, [{at} + 64]",
                "cmp {end}, {len}",
                "ja 3f",
                "movdqu {a}, [{src} + {at}]",
                "movdqu {b}, [{src} + {at} + 16]",
                "movdqu {c}, [{src} + {at} + 32]",
                "movdqu {d}, [{src} + {at} + 48]",
                "movdqu [{dst} + {at}], {a}",
                "movdqu [{dst} + {at} + 16], {b}",
                "movdqu [{dst} + {at} + 32], {c}",
                "movdqu [{dst} + {at} + 48], {d}",
                "mov {at}, {end}",
                "jmp 2b",
                "3:",
                "lea {end}, [{at} + 16]",
                "cmp {end}, {len}",
                "ja 4f",
                "movdqu {a}, [{src} + {at}]",
                "movdqu [{dst} + {at}], {a}",
                "mov {at}, {end}",
                "jmp 3b",
                "4:",
                "movdqu {a}, [{src} + {len} - 16]",
                "movdqu [{dst} + {len} - 16], {a}",
                at = inout(reg) 0usize => _, end = out(reg) _,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                src = in(reg) src, dst = in(reg) dst, len = in(reg) len,
                options(nostack)
            )
        }
    }

    /// At least 32 bytes.
    ///
    /// # Safety
    /// As [`copy`], with at least 32 bytes, on a machine that has AVX.
    #[target_feature(enable = "avx")]
    unsafe fn avx(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: `at` runs over multiples of 128, then 32, while that many bytes remain; the last
        // move starts at len - 32 >= 0. All inside both ranges. The caller guarantees that the
        // machine has AVX.
        unsafe {
            asm!(
                "2:",
                "lea {end}, [{at} + 128]",
                "cmp {end}, {len}",
                "ja 3f",
                "vmovdqu {a}, [{src} + {at}]",
                "vmovdqu {b}, [{src} + {at} + 32]",
                "vmovdqu {c}, [{src} + {at} + 64]",
                "vmovdqu {d}, [{src} + {at} + 96]",
                "vmovdqu [{dst} + {at}], {a}",
                "vmovdqu [{dst} + {at} + 32], {b}",
                "vmovdqu [{dst} + {at} + 64], {c}",
                "vmovdqu [{dst} + {at} + 96], {d}",
                "mov {at}, {end}",
                "jmp 2b",
                "3:",
                "lea {end}, [{at} + 32]",
                "cmp {end}, {len}",
                "ja 4f",
                "vmovdqu {a}, [{src} + {at}]",
                "vmovdqu [{dst} + {at}], {a}",
                "mov {at}, {end}",
                "jmp 3b",
                "4:",
                "vmovdqu {a}, [{src} + {len} - 32]",
                "vmovdqu [{dst} + {len} - 32], {a}",
                "vzeroupper",
                at = inout(reg) 0usize => _, end = out(reg) _,
                a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
                src = in(reg) src, dst = in(reg) dst, len = in(reg) len,
                // vzeroupper changes the upper half of every vector register.
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                options(nostack)
            )
        }
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;

    /// Copies every length up to beyond the largest step, at several offsets: the same bytes come
    /// out, and no byte beside them changes.
    #[test]
    fn copies_every_length_and_nothing_else() {
        let words: Box<[AtomicU64]> = (0..256).map(|_| AtomicU64::new(0)).collect();
        // SAFETY: the words live to the end of the test.
        let payload = unsafe { Payload::new(NonNull::from(&*words)) };
        let source: Vec<u8> = (0..700u32).map(|i| (i * 7 + 1) as u8).collect();
        for len in 0..=600 {
            for offset in [0usize, 8, 64, 1000] {
                words.iter().for_each(|w| w.store(u64::MAX, crate::sync::Ordering::Relaxed));
                payload.copy_in(offset, &source[3..3 + len]);
                let mut out = vec![0xaa; len + 32];
                payload.copy_out(offset, &mut out[16..16 + len]);
                assert_eq!(&out[16..16 + len], &source[3..3 + len], "len {len} offset {offset}");
                assert!(
                    out[..16].iter().chain(&out[16 + len..]).all(|b| *b == 0xaa),
                    "wrote beside, len {len}"
                );
                let mut beside = [0; 8];
                payload.copy_out((offset + len).next_multiple_of(8), &mut beside);
                assert_eq!(beside, [0xff; 8], "wrote past the end, len {len} offset {offset}");
            }
        }
        let mut odd = vec![0; 100];
        payload.copy_out(1003, &mut odd);
        assert_eq!(odd[..90], source[6..96]);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_range_past_the_end_panics() {
        let words: Box<[AtomicU64]> = (0..4).map(|_| AtomicU64::new(0)).collect();
        // SAFETY: the words live to the end of the test.
        let payload = unsafe { Payload::new(NonNull::from(&*words)) };
        payload.copy_out(8, &mut [0; 32]);
    }
}
