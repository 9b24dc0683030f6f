//! Makes a running thread execute a system call, to test what its sandbox really allows.
//!
//! Contract: the thread is stopped inside a system call, executes ours with the same instruction,
//! and then continues its own. x86-64 only; needs the right to trace.

#![allow(unsafe_code)]

use std::io;

/// A stopped thread; it continues when this is dropped.
pub struct Stopped {
    tid: libc::pid_t,
    found: libc::user_regs_struct,
}

fn ptrace(request: libc::c_uint, tid: libc::pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: each request here takes numbers, or a pointer to registers that lives through the
    // call.
    let outcome = unsafe { libc::ptrace(request, tid, address, data) };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until the thread has stopped.
fn stopped(tid: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: writes one number.
    let outcome = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) };
    if outcome == tid && libc::WIFSTOPPED(status) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Stopped {
    /// Stops thread `tid`, which sleeps in the kernel sooner or later.
    ///
    /// # Errors
    /// If it may not be traced.
    pub fn new(tid: i32) -> io::Result<Self> {
        // SAFETY: integers only, for which all zeroes are valid.
        let found: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_SEIZE, tid, 0, 0)?;
        let mut thread = Self { tid, found };
        // Until it is stopped behind a `syscall` instruction.
        for _ in 0..1000 {
            ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
            stopped(tid)?;
            thread.found = thread.registers()?;
            let word = thread.peek(thread.found.rip - 2)?;
            if word & 0xffff == 0x050f {
                return Ok(thread);
            }
            ptrace(libc::PTRACE_CONT, tid, 0, 0)?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(io::Error::other("the thread never sleeps in a system call"))
    }

    fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: integers only, for which all zeroes are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.tid, 0, &raw mut registers as usize)?;
        Ok(registers)
    }

    fn peek(&self, address: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.tid))?;
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut word, address)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Executes system call `number`; returns the kernel's result, which may be a negative errno.
    /// `text` is an index and a string: the argument with that index points to the string.
    ///
    /// # Errors
    /// If it cannot be traced.
    pub fn call(
        &self,
        number: i64,
        mut arguments: [u64; 4],
        text: Option<(usize, &str)>,
    ) -> io::Result<i64> {
        if let Some((index, text)) = text {
            // Below its stack and the red zone.
            let room = self.found.rsp - 4096;
            for (at, bytes) in (room..).step_by(8).zip([text.as_bytes(), b"\0"].concat().chunks(8))
            {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                ptrace(libc::PTRACE_POKEDATA, self.tid, at as usize, usize::from_ne_bytes(word))?;
            }
            arguments[index] = room;
        }
        let [rdi, rsi, rdx, r10] = arguments;
        let (rip, rax) = (self.found.rip - 2, number as u64);
        // So that the kernel does not restart an interrupted system call.
        let ours = libc::user_regs_struct {
            rip,
            rax,
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8: 0,
            r9: 0,
            ..self.found
        };
        self.set(&ours)?;
        ptrace(libc::PTRACE_SINGLESTEP, self.tid, 0, 0)?;
        stopped(self.tid)?;
        let after = self.registers()?;
        if after.rip != self.found.rip {
            return Err(io::Error::other("the thread was interrupted elsewhere"));
        }
        Ok(after.rax as i64)
    }

    fn set(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        ptrace(libc::PTRACE_SETREGS, self.tid, 0, std::ptr::from_ref(registers) as usize)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.found.rip != 0 {
            let _gone = self.set(&self.found);
        }
        let _gone = ptrace(libc::PTRACE_DETACH, self.tid, 0, 0);
    }
}
