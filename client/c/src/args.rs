//! The pointers that C passes to a call, as types, so that no call follows a raw pointer by itself.
//!
//! Contract: each type is a plain pointer to C, and its invariant is what the header promises under
//! "Pointers". Only C makes values of them; Rust can make them of references only, for which all
//! this is true. The library relies on the invariant, and checks the rest, NULL and alignment,
//! before it follows a pointer.

#![allow(unsafe_code)]

use crate::{Fault, border, rw_code};
use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::ptr::null_mut;

/// A pointer to something that is looked at: a struct of plain words, or an opaque type of this
/// library. NULL or misaligned, or valid as a `&'a T` in this thread.
///
/// An opaque type that is not `Sync` is therefore used by no other thread during `'a`.
#[repr(transparent)]
pub struct In<'a, T>(*const T, PhantomData<&'a T>);

// Derived, it would ask `T` to be `Copy`.
impl<T> Copy for In<'_, T> {}
impl<T> Clone for In<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

/// The same, for an opaque type to which the header has no `const`, because the call changes it.
pub type InMut<'a, T> = In<'a, T>;

impl<'a, T> In<'a, T> {
    /// What it points to; `None` if it is NULL or misaligned.
    #[inline(always)]
    pub fn get(self) -> Option<&'a T> {
        if !self.0.is_aligned() {
            return None;
        }
        // SAFETY: aligned (checked above), and by the invariant of this type NULL or valid as a
        // reference for 'a.
        unsafe { self.0.as_ref() }
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// A string: NULL, or it ends with a NUL and stays as it is during `'a`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Text<'a>(*const c_char, PhantomData<&'a CStr>);

impl<'a> Text<'a> {
    /// Reads the string, which is the argument called `what`.
    pub fn read(self, what: &str) -> Result<&'a str, Fault> {
        if self.is_null() {
            return Err(Fault::invalid(format!("{what} is NULL")));
        }
        // SAFETY: not NULL (checked above), so by the invariant of this type it ends with a NUL and
        // does not change during 'a.
        let string = unsafe { CStr::from_ptr(self.0) };
        string.to_str().map_err(|_| Fault::invalid(format!("{what} {string:?} is not UTF-8")))
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// Where a call writes a result: NULL or misaligned, or room for a `T` that no other thread uses
/// during `'a`. No reference to it is ever made.
#[repr(transparent)]
pub struct Out<'a, T>(*mut T, PhantomData<&'a mut T>);

impl<T> Out<'_, T> {
    /// Whether [`Self::write`] will succeed.
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        !self.0.is_null() && self.0.is_aligned()
    }

    /// Writes a result to the argument called `what`.
    #[inline]
    pub fn write(&self, what: &str, value: T) -> Result<(), Fault> {
        if !self.has_room() {
            return Err(misplaced(what));
        }
        // SAFETY: not NULL and aligned (checked above), so by the invariant of this type there is
        // room for a `T`, which only this call uses.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

impl<T> Out<'_, *mut T> {
    /// Makes a `T` for the program, which gives it back as [`Back`]. The argument called `what`
    /// points to it on RW_OK, otherwise it is NULL.
    pub fn lend(&self, what: &str, make: impl FnOnce() -> Result<T, Fault>) -> c_int {
        border(|| {
            self.write(what, null_mut())?;
            self.write(what, Box::into_raw(Box::new(make()?)))?;
            Ok(rw_code::RW_OK)
        })
    }
}

#[cold]
fn misplaced(what: &str) -> Fault {
    Fault::invalid(format!("{what} is NULL or misaligned"))
}

/// What the program gives back: NULL or misaligned, or from [`Out::lend`] and not used again once
/// it has been taken.
#[repr(transparent)]
pub struct Back<T>(*mut T);

impl<T> Back<T> {
    /// Takes it, unless `check` objects; `None` if it is NULL. An error leaves it with the program.
    pub fn take(
        self,
        check: impl FnOnce(&T) -> Result<(), Fault>,
    ) -> Result<Option<Box<T>>, Fault> {
        if self.0.is_null() {
            return Ok(None);
        }
        // What has not been taken yet is also valid as a reference.
        let lent = In(self.0.cast_const(), PhantomData);
        check(lent.get().ok_or_else(|| Fault::invalid("the pointer to be freed is misaligned"))?)?;
        // SAFETY: not NULL and aligned (checked above), so by the invariant of this type it came
        // from Box::into_raw in `lend` and is not used again; the reference above is gone.
        Ok(Some(unsafe { Box::from_raw(self.0) }))
    }
}

/// Tests pass references, for which the invariants hold.
#[cfg(test)]
mod from_references {
    use super::*;
    use std::mem::MaybeUninit;

    impl<'a, T> From<&'a T> for In<'a, T> {
        fn from(seen: &'a T) -> Self {
            Self(seen, PhantomData)
        }
    }

    impl<'a, T> From<Option<&'a T>> for In<'a, T> {
        fn from(seen: Option<&'a T>) -> Self {
            Self(seen.map_or(std::ptr::null(), |seen| seen), PhantomData)
        }
    }

    impl<'a> From<&'a CStr> for Text<'a> {
        fn from(string: &'a CStr) -> Self {
            Self(string.as_ptr(), PhantomData)
        }
    }

    impl<'a, T> From<&'a mut T> for Out<'a, T> {
        fn from(room: &'a mut T) -> Self {
            Self(room, PhantomData)
        }
    }

    impl<'a, T> From<&'a mut MaybeUninit<T>> for Out<'a, T> {
        fn from(room: &'a mut MaybeUninit<T>) -> Self {
            Self(room.as_mut_ptr(), PhantomData)
        }
    }

    impl<T> In<'_, T> {
        /// The same pointer one byte further on: never aligned, so never followed.
        pub fn misaligned(self) -> Self {
            assert!(self.0.is_aligned() && align_of::<T>() > 1);
            Self(self.0.wrapping_byte_add(1), PhantomData)
        }
    }

    impl<T> Back<T> {
        /// # Safety
        /// `owned` came from `Box::into_raw` and is not used again once it has been taken.
        pub unsafe fn new(owned: *mut T) -> Self {
            Self(owned)
        }
    }
}
