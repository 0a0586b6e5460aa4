//! A codexd from its lock to its last document.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::http::{Gate, Limits, Server, Stats, Style, admit_all};
use common::log::{Log, Opened};
use common::time::{Clock, Timestamp};
use common::trace::Level;
use common::{checkpoint, child, document, engine, signal, sys, trace};

use crate::api::{App, Asked, Service};
use crate::app_server::AppServer;
use crate::app_server::process::Program;
use crate::app_server::socket::Endpoint;
use crate::config::Config;
use crate::core::{Birth, Input};
use crate::disk::Disk;
use crate::documents::{self, Documents, Paths};
use crate::events::Readers;
use crate::metrics::Metrics;
use crate::shell::{self, Desk, Queues, Views, World};
use crate::transcript::{Keeper, Transcripts};
use crate::views::Place;
use crate::{disk, event, routes};

/// How long another codexd may take to be gone: a fork has become another program in less, on a loaded machine too.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long requests may go on after the loop has ended.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Runs a codexd until it is asked to stop.
///
/// # Errors
/// A sentence: what could not be had, from the port to the disk.
pub fn run(config: &Config) -> Result<(), String> {
    let process_started_at = Timestamp::now();
    let routes = routes::table(&config.event_stream_path);
    let stats = Stats::of(routes);
    sys::share_heap();
    signal::end_with_any_thread(&["http", "events"]);
    let paths = paths(config);
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    for folder in [&paths.state, &paths.logs] {
        document::make_folder(folder).map_err(said(&format!("{} cannot be made", folder.display())))?;
    }
    let _locks = lock(&paths)?;
    let listener = bind(config)?;
    let address = listener.local_addr().map_err(said("the listener has no address"))?;
    let mut place = place(config);
    let version = env!("CARGO_PKG_VERSION");
    documents::identity(&paths.state("identity.json"), &mut place, version).map_err(said("identity.json"))?;

    let mut state = documents::read_checkpoint(&paths, true).map_err(said("checkpoint.json"))?;
    let (after, covered) = (state.seq(), checkpoint::covered(&paths.state));
    let mut transcripts = Keeper::open(&paths.state, config.transcripts_total_bytes)
        .map_err(said("the transcripts cannot be opened"))?;
    let mut repair = transcripts.repair();
    let apply = |_, line: &str| {
        let record = event::parse(line)?;
        repair.take(&record, line);
        state.apply(&record);
        Ok(())
    };
    let Opened { mut log, fresh } =
        Log::open(&paths.logs, config.log, after, apply).map_err(said("the log cannot be opened"))?;
    repair.done();
    shell::end_leftover(&state);
    let new_log_id = (fresh || state.log_id().is_empty())
        .then(common::random_id)
        .transpose()
        .map_err(said("no random bytes"))?;
    log.feed().set_log_id(new_log_id.as_deref().unwrap_or(state.log_id())); // before any reader asks
    let pid = std::process::id();
    let process_mark = child::start_mark(pid).unwrap_or_default();
    let birth = Birth {
        new_log_id,
        next: log.next(),
        past: "codexd ended",
        epoch_floor: 0,
        pid,
        process_mark,
        process_started_at,
        version: version.to_owned(),
        rules: config.rules(),
    };

    let Queues { calls, child, inbox } = shell::queues();
    let (desk, to_loop) = (Arc::new(Desk::new(calls.clone())), calls.clone());
    let feed = log.feed().clone();
    let shared = transcripts.shared().clone();
    let documents =
        Documents::start(paths.clone(), place.clone(), feed.clone(), shared.clone(), calls.clone())
            .map_err(said("no thread for documents"))?;
    let resolved_base_url = resolved(config, address);
    let service = Service {
        configured_base_url: config.local_api_base.to_string(),
        resolved_base_url: resolved_base_url.clone(),
        event_stream_path: config.event_stream_path.clone(),
        routes: routes::table(&config.event_stream_path),
        openapi: Default::default(),
    };
    let readers = Arc::new(Readers::default());
    let default_cwd = config.external.is_none().then(|| config.server_cwd.clone());
    let limits = Asked { ceilings: config.ceilings.clone(), default_cwd };
    let (disk, routes) = (disk(config, shared), service.routes);
    let metrics = Metrics {
        http: stats.clone(),
        tally: Arc::default(),
        log_limits: config.log,
        transcripts_limit: config.transcripts_total_bytes,
        checkpoint: paths.state(checkpoint::NEWEST),
    };
    let tally = metrics.tally.clone();
    let app = Arc::new(App {
        desk: desk.clone(),
        feed: feed.clone(),
        readers,
        place,
        service,
        limits,
        disk,
        metrics,
    });
    let server = Server {
        routes,
        state: app,
        style: Style::Camel,
        gate: Gate::default(),
        unknown_route: |method, path| format!("Unknown codexd route {method} {path}."),
        authorize: admit_all,
        limits: Limits::default(),
        stats,
    };
    let running = server.start(listener).map_err(said("the listener cannot be served"))?;
    signal::on_stop(move |name| {
        let _ = calls.send(Input::Stop(name));
    })
    .map_err(said("no signal handlers"))?;
    let told = [("url", resolved_base_url.into()), ("pid", pid.into()), ("version", version.into())];
    trace::write(Level::Info, None, format_args!("listening"), &told);
    let mut world = World {
        desk,
        server: app_server(config, &paths),
        inbox: child,
        calls: to_loop,
        paths,
        birth,
        taken_up: Some(state),
        documents: Some(documents),
        link: None,
        told: Default::default(),
        tally,
        transcripts,
        views: Views::new([covered, after]),
    };
    let ended = engine::run(Clock::start(), &inbox, &mut log, &mut world);
    feed.close();
    running.stop(STOP_GRACE);
    ended.map_err(said("the log failed, and what the disk holds is unknown"))?;
    trace::info(None, format_args!("codexd has stopped"));
    Ok(())
}

fn app_server(config: &Config, paths: &Paths) -> AppServer {
    match config.external {
        Some(address) => AppServer::External(Endpoint { url: config.server_endpoint.clone(), address }),
        None => AppServer::Spawn(Program {
            command: config.server_command.clone(),
            args: config.server_args.clone(),
            cwd: config.server_cwd.clone(),
            stdout_log: paths.logs("stdout.log"),
            stderr_log: paths.logs("stderr.log"),
        }),
    }
}

/// Where everything lies.
pub fn paths(config: &Config) -> Paths {
    Paths { state: config.state_dir.clone(), logs: config.logs_dir.clone() }
}

/// What is measured.
pub fn disk(config: &Config, transcripts: Arc<Transcripts>) -> Disk {
    let home = config.external.is_none().then(disk::codex_home).flatten();
    Disk::new(config.state_dir.clone(), transcripts, home)
}

/// What views show; the daemon's own name is not known yet.
pub fn place(config: &Config) -> Place {
    Place {
        daemon_id: String::new(),
        node_id: config.node_id.clone(),
        repo_root: config.repo_root.display().to_string(),
        endpoint: config.server_endpoint.clone(),
        strategy: config.strategy(),
    }
}

/// One codexd per state directory and per logs directory. The locks are on the directories themselves, where nobody can
/// remove them, and go with the process, however it ends.
fn lock(paths: &Paths) -> Result<Vec<File>, String> {
    let mut folders = vec![&paths.state, &paths.logs];
    folders.dedup();
    folders.into_iter().map(|folder| lock_folder(folder)).collect()
}

fn lock_folder(folder: &Path) -> Result<File, String> {
    document::lock_folder(folder, LOCK_PATIENCE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("another codexd runs on {}", folder.display()),
        _ => format!("{} cannot be locked: {error}", folder.display()),
    })
}

fn bind(config: &Config) -> Result<TcpListener, String> {
    let base = &config.local_api_base;
    let address = base.address().ok_or_else(|| format!("{base} has no address"))?;
    TcpListener::bind(SocketAddr::new(address, base.port))
        .map_err(|error| format!("{base} cannot be bound: {error}"))
}

/// The configured base with the port that the system chose.
fn resolved(config: &Config, address: SocketAddr) -> String {
    let mut base = config.local_api_base.clone();
    base.port = address.port();
    base.to_string()
}
