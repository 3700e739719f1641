//! What is taken from a process before it starts: the right to write a directory, or the success of system calls.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::process::Command;

/// How a directory is made read-only for one process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ReadOnly {
    /// By its mode, which the test sets; a process of root's loses the capability to get past that.
    Mode,
    /// By a read-only mount, in a namespace of its own.
    Mount,
}

/// CAP_DAC_OVERRIDE, by which root writes what its mode forbids.
const CAP_DAC_OVERRIDE: libc::c_ulong = 1;

impl ReadOnly {
    /// Returns why this way is closed on this machine, if it is.
    pub(crate) async fn obstacle(self) -> Option<String> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("true");
        self.confine(&mut command, folder.path());
        match command.status().await {
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    pub(super) fn confine(self, command: &mut Command, dir: &Path) {
        let dir = CString::new(dir.as_os_str().as_bytes()).expect("a path without zero bytes");
        // SAFETY: it takes no pointer and cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        // SAFETY: between fork and exec the closure makes system calls only, with pointers to what it owns.
        unsafe {
            command.pre_exec(move || match self {
                ReadOnly::Mode if is_root => done(libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)),
                ReadOnly::Mode => Ok(()),
                ReadOnly::Mount => {
                    let spaces = if is_root { libc::CLONE_NEWNS } else { libc::CLONE_NEWNS | libc::CLONE_NEWUSER };
                    done(libc::unshare(spaces))?;
                    let none = std::ptr::null();
                    let mount = |from, to: *const libc::c_char, flags| done(libc::mount(from, to, none, flags, none.cast()));
                    mount(none, c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE)?;
                    mount(dir.as_ptr(), dir.as_ptr(), libc::MS_BIND)?;
                    mount(none, dir.as_ptr(), libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)
                }
            });
        }
    }
}

/// A system call that fails, always or where one of its arguments says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFault {
    number: libc::c_long,
    errno: i32,
    when: Option<(usize, Test)>,
}

#[derive(Clone, Copy, Debug)]
enum Test {
    HasBit(u32),
    AtLeast(u32),
}

impl CallFault {
    /// Writing at an offset, as the store does it.
    pub(crate) fn on_write(errno: i32) -> CallFault {
        CallFault { number: libc::SYS_pwrite64, errno, when: None }
    }

    /// Reading at least so many bytes at an offset. The loader of programs reads less than 1000 so.
    pub(crate) fn on_read(errno: i32, len: u32) -> CallFault {
        CallFault { number: libc::SYS_pread64, errno, when: Some((2, Test::AtLeast(len))) }
    }

    /// Making new files and links. Directories are left out: asked for one that exists, the system must say that it exists.
    pub(crate) fn on_create(errno: i32) -> Vec<CallFault> {
        let opening = |flag: i32| Some((2, Test::HasBit(flag as u32)));
        // The lock is opened with O_CREAT too, and exists; so what tells a new file are the other flags.
        let opens = [libc::O_EXCL, libc::O_TRUNC, libc::O_APPEND].map(|flag| (libc::SYS_openat, opening(flag)));
        #[cfg(target_arch = "x86_64")]
        let links = [(libc::SYS_symlinkat, None), (libc::SYS_symlink, None)];
        #[cfg(not(target_arch = "x86_64"))]
        let links = [(libc::SYS_symlinkat, None)];
        opens.into_iter().chain(links).map(|(number, when)| CallFault { number, errno, when }).collect()
    }

    fn program(&self) -> Vec<libc::sock_filter> {
        let (load, jump) = ((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, (libc::BPF_JMP | libc::BPF_K) as u16);
        let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let fail = line((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ERRNO | self.errno as u32);
        let is_it = |lines| line(jump | libc::BPF_JEQ as u16, 0, lines, self.number as u32);
        let number = line(load, 0, 0, 0);
        let Some((argument, test)) = self.when else { return vec![number, is_it(1), fail] };
        // `struct seccomp_data`: the arguments begin at 16, eight bytes each; the lower half comes first.
        let argument = line(load, 0, 0, 16 + 8 * argument as u32);
        let test = match test {
            Test::HasBit(bit) => line(jump | libc::BPF_JSET as u16, 0, 1, bit),
            Test::AtLeast(least) => line(jump | libc::BPF_JGE as u16, 0, 1, least),
        };
        vec![number, is_it(3), argument, test, fail]
    }
}

/// Lets these calls fail in the process and all it starts.
pub(super) fn fail_calls(command: &mut Command, faults: &[CallFault]) {
    if faults.is_empty() {
        return;
    }
    let mut filter: Vec<libc::sock_filter> = faults.iter().flat_map(CallFault::program).collect();
    filter.push(libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW });
    // SAFETY: between fork and exec the closure makes system calls only, with a pointer to the filter that it owns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &raw const program))
        });
    }
}

fn done(status: libc::c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
