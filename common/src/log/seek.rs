//! Finding a line by its number. Lines carry their number, so halving needs no index.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Seq, seq_of};

/// A seek stops halving below this, and walks on from there: each line that it passes costs as much as a halving.
const BLOCK: u64 = 4096;

/// Where, in the first `len` bytes of a file of lines in the order of their numbers, the first one stands that is no
/// whole line with a number below `seq`: the line `seq`, or the next one, or what is torn, or the end.
///
/// # Errors
/// If the file cannot be read.
pub fn offset(file: &File, len: u64, seq: Seq) -> io::Result<u64> {
    let (mut low, mut high) = (0, len); // a line starts at `low`; the numbers before it are below `seq`
    while high - low > BLOCK {
        match line_from(file, low + (high - low) / 2, high)? {
            Some((start, Some(found))) if found <= seq => low = start,
            _ => high = low + (high - low) / 2,
        }
    }
    // From here on lines are walked; the one at `low` may be long, so what follows may lie past `high`.
    while low < len {
        match (number_at(file, low, len)?, end_of_line(file, low, len)?) {
            (Some(found), Some(next)) if found < seq => low = next,
            _ => return Ok(low),
        }
    }
    Ok(len)
}

/// The first line that starts after `from` and before `limit`: where it starts, and its number if it has one.
fn line_from(file: &File, from: u64, limit: u64) -> io::Result<Option<(u64, Option<Seq>)>> {
    match end_of_line(file, from, limit)? {
        Some(start) if start < limit => Ok(Some((start, number_at(file, start, limit)?))),
        _ => Ok(None),
    }
}

/// The number of the line that starts at `start`.
fn number_at(file: &File, start: u64, limit: u64) -> io::Result<Option<Seq>> {
    let mut head = [0; 32];
    let size = (limit - start).min(32) as usize;
    file.read_exact_at(&mut head[..size], start)?;
    Ok(seq_of(&head[..size]))
}

/// Where the line that holds `from` ends, its newline included.
fn end_of_line(file: &File, mut from: u64, limit: u64) -> io::Result<Option<u64>> {
    let mut block = [0; BLOCK as usize];
    while from < limit {
        let size = (limit - from).min(BLOCK) as usize;
        file.read_exact_at(&mut block[..size], from)?;
        if let Some(at) = block[..size].iter().position(|&byte| byte == b'\n') {
            return Ok(Some(from + at as u64 + 1));
        }
        from += size as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::folder;

    /// Numbers with gaps, a long line among short ones, and a torn end.
    #[test]
    fn every_number_is_found_where_it_stands() {
        let path = folder("seek").join("lines");
        let (mut text, mut starts) = (String::new(), Vec::new());
        for n in 1..3000_u64 {
            starts.push((n * 3, text.len() as u64));
            let long = if n % 500 == 0 { 200_000 } else { 40 };
            text.push_str(&format!("{{\"seq\":{},\"x\":\"{}\"}}\n", n * 3, "x".repeat(long)));
        }
        let torn = text.len() as u64;
        let later = format!("{{\"seq\":9000,\"x\":\"{}\"}}\n", "x".repeat(100_000));
        let ends =
            ["".into(), "{\"seq\":8999,\"x\":\"".into(), "\0".repeat(300_000), format!("no line\n{later}")];
        for end in ends {
            std::fs::write(&path, format!("{text}{end}")).unwrap();
            let file = File::open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            for &(seq, start) in starts.iter().step_by(7) {
                assert_eq!(offset(&file, len, seq).unwrap(), start, "{seq}");
                assert_eq!(offset(&file, len, seq - 1).unwrap(), start, "{seq}");
            }
            assert_eq!(offset(&file, len, 8998).unwrap(), torn, "what is torn is after all that is whole");
        }
    }
}
