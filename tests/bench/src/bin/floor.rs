//! The least that a server with a thread for each connection can be: it reads to the blank line and writes one fixed
//! answer. What a server of that kind costs beyond this is its own doing.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// As long as the node's own answer to `GET /healthz`, header by header.
const HEADERS: &str = "Server: baa\r\nX-Request-Id: req-6446c3f5e4a53-1a2b3\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 3\r\n";
const END: &[u8] = b"\r\n\r\n";

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    eprintln!("listening url=http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || serve(stream)); // what fails costs this connection
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let kept = format!("HTTP/1.1 200 OK\r\n{HEADERS}\r\nok\n");
    let last = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{HEADERS}\r\nok\n");
    let (mut buffer, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(()); // it has left, or its head does not fit
        }
        filled += read;
        while let Some(end) = buffer[..filled].windows(END.len()).position(|part| part == END) {
            let closes = buffer[..end].windows(17).any(|part| part.eq_ignore_ascii_case(b"connection: close"));
            stream.write_all(if closes { &last } else { &kept }.as_bytes())?;
            if closes {
                return Ok(());
            }
            buffer.copy_within(end + END.len()..filled, 0);
            filled -= end + END.len();
        }
    }
}
