//! What the tests deploy: a web server whose file `mode` says how it behaves and whose file `page` is its answer.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an application of users, not a part of the fleet; it ends where something is wrong"
)]
use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    process::ExitCode,
    thread,
};

fn main() -> ExitCode {
    let mode = fs::read_to_string("mode").unwrap();
    let page = fs::read_to_string("page").unwrap();
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    println!("{page} in mode {mode} on port {port}");
    match mode.as_str() {
        "exit" => return ExitCode::from(3),
        "deaf" => loop {
            thread::park();
        },
        _ => {}
    }
    let status = if mode == "broken" { "500 Internal Server Error" } else { "200 OK" };
    for stream in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let length = page.len();
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}");
    }
    ExitCode::SUCCESS
}
