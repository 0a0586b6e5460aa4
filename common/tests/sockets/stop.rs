//! How a server ends.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::harness::{LONG, Node, get, wait};

#[test]
fn idle_connections_close_at_once_and_busy_ones_finish() {
    let mut node = Node::start();
    let (mut idle, mut partial, mut busy) = (node.client(), node.client(), node.client());
    idle.send(get("/probe"));
    assert_eq!(idle.reply().status, 200);
    partial.send("GET /probe HT");
    busy.send(get("/hold"));
    wait("the handler runs", || node.state.running.load(Ordering::SeqCst) == 1);
    let running = node.running.take().unwrap();
    let stop = thread::spawn(move || running.stop(LONG));
    idle.assert_closed();
    partial.assert_closed();
    wait("connections are refused", || TcpStream::connect(node.address).is_err());
    assert!(!stop.is_finished(), "it waits for the busy one");
    node.state.release.store(true, Ordering::SeqCst);
    let reply = busy.reply();
    assert_eq!((reply.status, reply.body.as_str()), (200, "held\n"));
    busy.assert_closed();
    stop.join().unwrap();
}

#[test]
fn what_does_not_finish_within_the_grace_is_cut() {
    let mut node = Node::start();
    let (mut stream, mut hold) = (node.client(), node.client());
    stream.send(get("/endless"));
    stream.reply_to_head();
    hold.send(get("/hold"));
    wait("the handler runs", || node.state.running.load(Ordering::SeqCst) == 1);
    node.running.take().unwrap().stop(Duration::from_millis(50));
    assert_eq!(node.state.ended(), 2, "both have noticed");
}

#[test]
fn a_server_that_nobody_uses_stops_at_once() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mut node = Node::on(address, |_| {});
        node.running.take().unwrap().stop(LONG);
    }
}
