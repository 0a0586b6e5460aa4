//! Mechanism that both daemons need, and no policy. In reading order.

pub mod error;
pub mod time;
pub mod trace;

pub mod document;
pub mod log;
pub mod record;
pub mod rolling;

pub mod checkpoint;
pub mod desk;
pub mod engine;

pub mod child;
pub mod signal;
pub mod sys;

pub mod wire;

pub mod metrics;

pub mod http;
pub mod websocket;

pub mod example;
pub mod keys;
pub mod openapi;

pub mod codexd_api;

pub mod cli;
pub mod client;
pub mod config;
pub mod doctor;
pub mod terminal;

pub use error::Error;

/// 32 hex digits that nobody else has drawn.
///
/// # Errors
/// If the system gives no random bytes.
pub fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod test {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A new empty folder for one test.
    pub(crate) fn folder(name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("baa-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}
