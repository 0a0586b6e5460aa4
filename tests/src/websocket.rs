//! A WebSocket client that takes JSON messages one by one.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::{ClientHandshake, Request};
use tungstenite::{HandshakeError, Message, Utf8Bytes, WebSocket};

use crate::http::split;

type Refused = HandshakeError<ClientHandshake<TcpStream>>;

/// An open connection.
pub struct Socket(WebSocket<TcpStream>);

/// What came next.
#[derive(Clone, Debug, PartialEq)]
pub enum Got<T = Value> {
    /// A text message, as JSON if not said otherwise.
    Text(T),
    /// The server closed: its code, and its reason.
    Closed(u16, String),
    /// Nothing within the time.
    Nothing,
}

impl Socket {
    /// Connects to `http://HOST/PATH` or `ws://HOST/PATH` with these extra headers.
    ///
    /// # Errors
    /// The status of a refused upgrade; panics when nobody listens.
    #[track_caller]
    pub fn connect(url: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
        let (host, path) = split(url);
        let mut request = format!("ws://{host}{path}")
            .into_client_request()
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        for (name, value) in headers {
            let value = value.parse().unwrap_or_else(|_| panic!("bad header value {value}"));
            request.headers_mut().insert(*name, value);
        }
        let stream = TcpStream::connect(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        match Socket::upgrade(request, stream) {
            Ok(socket) => Ok(socket),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{url}: {error}"),
        }
    }

    /// The same to a server that may be gone at any moment: `None` then.
    pub fn try_connect(url: &str) -> Option<Socket> {
        let (host, path) = split(url);
        let request = format!("ws://{host}{path}").into_client_request().ok()?;
        Socket::upgrade(request, TcpStream::connect(host).ok()?).ok()
    }

    fn upgrade(request: Request, stream: TcpStream) -> Result<Socket, Refused> {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        tungstenite::client(request, stream).map(|(socket, _)| Socket(socket))
    }

    /// The next message within this time; pings are answered on the way.
    #[track_caller]
    pub fn next(&mut self, within: Duration) -> Got {
        match self.next_raw(within) {
            Got::Text(text) => {
                let parsed = serde_json::from_str(&text);
                Got::Text(parsed.unwrap_or_else(|error| panic!("no JSON ({error}): {text}")))
            }
            Got::Closed(code, reason) => Got::Closed(code, reason),
            Got::Nothing => Got::Nothing,
        }
    }

    /// The same without a look at the text: for many.
    pub fn next_raw(&mut self, within: Duration) -> Got<Utf8Bytes> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Got::Nothing;
            }
            let _ = self.0.get_ref().set_read_timeout(Some(left));
            match self.0.read() {
                Ok(Message::Text(text)) => return Got::Text(text),
                Ok(Message::Close(frame)) => {
                    let _ = self.0.flush();
                    let (code, reason) = frame
                        .map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    return Got::Closed(code, reason);
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => return Got::Nothing,
                Err(_) => return Got::Closed(1006, String::new()),
            }
        }
    }

    /// The next message as JSON; panics when it does not come within the time.
    #[track_caller]
    pub fn text(&mut self, within: Duration) -> Value {
        match self.next(within) {
            Got::Text(value) => value,
            other => panic!("no message: {other:?}"),
        }
    }

    /// Sends a text message; a broken connection shows at the next read.
    pub fn send(&mut self, text: &str) {
        let _ = self.0.send(Message::text(text));
    }

    /// Sends a text message to a server that may not read: whether it went out within the time.
    pub fn try_send(&mut self, text: &str, within: Duration) -> bool {
        let _ = self.0.get_ref().set_write_timeout(Some(within));
        self.0.send(Message::text(text)).is_ok()
    }

    /// The connection below, to shut it or to stop reading it.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        let _ = self.0.close(None);
        let _ = self.0.flush();
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
