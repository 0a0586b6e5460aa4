//! A text file that is appended to and never grows past its bound: the older half lies beside it as `….1`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log of lines that nobody reads back by program.
pub struct Rolling {
    path: PathBuf,
    max_bytes: u64,
    file: File,
    len: u64,
}

impl Rolling {
    /// Opens the file at `path` for appending; when it would pass `max_bytes` it becomes `….1` and a new one begins.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Rolling> {
        let file = append_to(path)?;
        let len = file.metadata()?.len();
        Ok(Rolling { path: path.to_path_buf(), max_bytes, file, len })
    }

    /// Appends a line; one longer than the bound is cut to it.
    ///
    /// # Errors
    /// Any error of the file system; the line may then be there in part.
    pub fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let line = &line[..line.len().min(self.max_bytes as usize)];
        if self.len > 0 && self.len + line.len() as u64 >= self.max_bytes {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            self.file = append_to(&self.path)?;
            self.len = 0;
        }
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        self.len += whole.len() as u64;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::folder;

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let path = folder("rolling").join("x.log");
        let mut log = Rolling::open(&path, 100).unwrap();
        for n in 0..50 {
            log.line(format!("line {n}").as_bytes()).unwrap();
        }
        log.line(&[b'x'; 500]).unwrap();
        let (now, before) = (fs::read(&path).unwrap(), fs::read(path.with_extension("log.1")).unwrap());
        assert!(now.len() <= 101 && before.len() <= 101, "{} {}", now.len(), before.len());
        assert!(before.ends_with(b"line 49\n"));
    }
}
