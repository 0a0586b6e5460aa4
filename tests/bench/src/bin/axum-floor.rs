//! The same answer from axum on tokio, as its documentation sets them up: what most services in Rust are.

use axum::Router;
use axum::http::header::{HeaderName, SERVER};
use axum::routing::get;
use axum::serve::ListenerExt;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let answer = || async { ([(SERVER, "baa"), (HeaderName::from_static("x-request-id"), "req-0-0")], "ok\n") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("listening url=http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().route("/healthz", get(answer))).await
}
