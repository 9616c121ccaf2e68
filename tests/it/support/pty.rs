//! Runs the built binary on a pseudo-terminal that is its controlling terminal,
//! as in a terminal window.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::env::{BINARY, TestEnv};
use super::wait;

pub struct Pty {
    master: File,
    /// Kept open so that tests can read the settings after the program exits.
    terminal: OwnedFd,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Number of output bytes that `expect` has consumed.
    read: usize,
}

impl Pty {
    /// Runs `pixels ARGS` on a terminal with 80 columns and 24 rows.
    pub fn pixels<S: AsRef<std::ffi::OsStr>>(
        env: &TestEnv,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        // setsid sets the controlling terminal, then executes the binary.
        let mut command = env.program("setsid", ["--ctty", BINARY]);
        command.args(args);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        tcsetwinsize(&master, size(80, 24)).unwrap();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let child = command
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self {
            master,
            terminal,
            child,
            shown,
            read: 0,
        }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Types `keys` into the terminal.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// All output so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until `text` appears after the previously expected text. Returns
    /// the output between the two texts.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let begin = self.read;
        let shown = Arc::clone(&self.shown);
        let at = wait::until_or(
            || find(&shown.lock().unwrap()[begin..], text.as_bytes()),
            || {
                let shown = shown.lock().unwrap();
                let shown = String::from_utf8_lossy(&shown[begin..]);
                format!("{text:?} was not shown; output: {shown}")
            },
        );
        self.read = begin + at + text.len();
        let shown = shown.lock().unwrap();
        String::from_utf8_lossy(&shown[begin..begin + at]).into_owned()
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, size(columns, rows)).unwrap();
    }

    /// The current terminal settings.
    pub fn settings(&self) -> Termios {
        tcgetattr(self.terminal.as_fd()).unwrap()
    }

    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        wait::exit_code(&mut self.child)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}
