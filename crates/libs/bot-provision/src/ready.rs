//! Whether a RabbitMQ that was just started can be used, and whether its ports can. Errors are words for people.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Management, is_free};

const PORTS_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const GREETING_LIMIT: Duration = Duration::from_secs(3);
/// The first frame of an AMQP 0-9-1 server is a method.
const METHOD_FRAME: u8 = 1;

/// Whether AMQP and HTTP answer, and the definitions (vhost and admin) are loaded.
pub(crate) async fn readiness(
    management: &Management,
    vhost: &str,
    amqp: u16,
    http: u16,
    is_tls: bool,
) -> Result<(), String> {
    listens("its management API", http).await?;
    match management.vhost_is_running(vhost).await {
        // Whether TLS is answered is seen by the first client.
        Ok(true) if is_tls => listens("AMQP", amqp).await,
        Ok(true) => speaks_amqp(amqp).await,
        Ok(false) => Err(format!("its vhost {vhost} is not there yet")),
        Err(error) => Err(error.to_string()),
    }
}

/// By connecting: to try whether the port can be bound would now and then take it from the node that is about to.
pub(crate) async fn listens(who: &str, port: u16) -> Result<(), String> {
    TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|_| format!("{who} does not listen yet"))
}

/// That something accepts is not enough: a container engine does so before the container does.
async fn speaks_amqp(port: u16) -> Result<(), String> {
    let greet = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.read_u8().await
    };
    match tokio::time::timeout(GREETING_LIMIT, greet).await {
        Ok(Ok(METHOD_FRAME)) => Ok(()),
        _ => Err("AMQP does not answer yet".to_owned()),
    }
}

/// A killed node counts as gone when its first thread is; the kernel closes its sockets a moment later. Gives a port
/// that stays taken.
pub(crate) async fn taken(ports: &[u16]) -> Option<u16> {
    let begun = Instant::now();
    while let Some(port) = ports.iter().copied().find(|&port| !is_free(port)) {
        if begun.elapsed() > PORTS_LIMIT {
            return Some(port);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}
