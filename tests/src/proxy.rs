//! A TCP proxy whose network can be made bad: bytes late, few or missing, connections cut or turned away. It knows nothing of
//! what it carries.
//!
//! What a blackhole swallows is held, as TCP sends again what was lost: a connection that outlives it gets every byte.
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

const CHUNK_BYTES: usize = 16 * 1024;

/// How the network is; the default passes everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// New connections are reset before they carry a byte.
    pub refuses: bool,
    /// Added to each chunk, in both directions.
    pub delay: Duration,
    /// Bytes a second that pass in each direction of each connection.
    pub bytes_per_s: Option<u32>,
    /// Nothing of what the client says arrives.
    pub swallows_sent: bool,
    /// Nothing of what the server says arrives.
    pub swallows_received: bool,
}

/// How connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// By a reset, as of a machine that is gone.
    Reset,
    /// In order, as of a process that ended.
    Finish,
}

/// Listens on a port of its own; gone with the value, and all its connections with it.
pub struct Proxy {
    port: u16,
    network: watch::Sender<Network>,
    cuts: watch::Sender<Option<Cut>>,
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// What each connection looks at.
#[derive(Clone)]
struct Line {
    network: watch::Receiver<Network>,
    cuts: watch::Receiver<Option<Cut>>,
    open: Arc<AtomicUsize>,
}

/// Counted as open for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Sent,
    Received,
}

impl Proxy {
    /// In front of a port of this machine, be there someone or not.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (network, cuts, open) = (watch::Sender::default(), watch::Sender::default(), Arc::default());
        let line = Line { network: network.subscribe(), cuts: cuts.subscribe(), open: Arc::clone(&open) };
        let accepting = tokio::spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], port)), line));
        Self { port: own, network, cuts, open, accepting }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the network is like this, for open connections as well.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.set(Network::default());
    }

    /// Ends every connection that is open now.
    pub fn cut(&self, how: Cut) {
        self.cuts.send_replace(Some(how));
    }

    /// How many connections it carries.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, line: Line) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(carry(client, to, line.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(client: TcpStream, to: SocketAddr, mut line: Line) {
    if line.network.borrow().refuses {
        let _ = client.set_zero_linger();
        return;
    }
    // Whoever is cut while it is still being connected was not open.
    line.cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(to).await else {
        let _ = client.set_zero_linger();
        return;
    };
    line.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(Arc::clone(&line.open));
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut client_read, mut client_write), (mut server_read, mut server_write)) =
        (client.into_split(), server.into_split());
    let both = async {
        tokio::try_join!(
            pump(&mut client_read, &mut server_write, Direction::Sent, line.network.clone()),
            pump(&mut server_read, &mut client_write, Direction::Received, line.network.clone()),
        )
    };
    let cut = tokio::select! {
        ended = both => ended.is_err().then_some(Cut::Reset),
        _ = line.cuts.changed() => *line.cuts.borrow(),
    };
    if cut == Some(Cut::Reset) {
        // Each as a whole: a half that goes alone says that it has done.
        let whole = (client_read.reunite(client_write), server_read.reunite(server_write));
        if let (Ok(client), Ok(server)) = whole {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    }
}

/// Until one side says no more; then the other is told so. `Err`: one of them is gone.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    direction: Direction,
    mut network: watch::Receiver<Network>,
) -> io::Result<()> {
    let swallowed = |n: &Network| match direction {
        Direction::Sent => n.swallows_sent,
        Direction::Received => n.swallows_received,
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut chunk).await?;
        let now = *network.wait_for(|n| !swallowed(n)).await.map_err(io::Error::other)?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        let paced = now.bytes_per_s.map_or(Duration::ZERO, |rate| Duration::from_secs(1) * bytes as u32 / rate.max(1));
        tokio::time::sleep(now.delay + paced).await;
        to.write_all(&chunk[..bytes]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::time::{Instant, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(300);

    /// A server that says back what it hears, and the proxy before it.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Proxy::before(port).await
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        // Carried to the other end, and so open.
        assert_eq!(said_back(&mut stream, b"hello").await, b"hello");
        assert!(proxy.open() > 0);
        stream
    }

    async fn said_back(stream: &mut TcpStream, words: &[u8]) -> Vec<u8> {
        stream.write_all(words).await.unwrap();
        let mut heard = vec![0; words.len()];
        timeout(LONG, stream.read_exact(&mut heard)).await.unwrap().unwrap();
        heard
    }

    /// How a connection ends from the client's side.
    async fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
        timeout(LONG, stream.read(&mut [0; 16])).await.unwrap().map_err(|e| e.kind())
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions_until_the_client_has_done() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        let long = vec![7; 500_000];
        let (mut read, mut write) = stream.split();
        let mut heard = vec![0; long.len()];
        let (sent, got) = tokio::join!(write.write_all(&long), read.read_exact(&mut heard));
        assert!(sent.is_ok() && got.is_ok() && heard == long);
        write.shutdown().await.unwrap();
        assert_eq!(end(&mut stream).await, Ok(0), "the end travels as well");
    }

    #[tokio::test]
    async fn a_cut_is_a_reset_or_an_end_and_the_next_connection_passes() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        proxy.cut(Cut::Reset);
        assert_eq!(end(&mut stream).await, Err(ErrorKind::ConnectionReset));
        let mut stream = connect(&proxy).await;
        proxy.cut(Cut::Finish);
        assert_eq!(end(&mut stream).await, Ok(0));
        connect(&proxy).await;
    }

    #[tokio::test]
    async fn what_a_blackhole_swallows_comes_when_it_is_gone() {
        let proxy = echo().await;
        for (sent, received) in [(true, false), (false, true), (true, true)] {
            let mut stream = connect(&proxy).await;
            proxy.set(Network { swallows_sent: sent, swallows_received: received, ..Network::default() });
            stream.write_all(b"anyone?").await.unwrap();
            let mut heard = [0; 7];
            assert!(timeout(SHORT, stream.read_exact(&mut heard)).await.is_err(), "{sent} {received}");
            proxy.heal();
            assert_eq!(said_back(&mut stream, b"again").await, b"anyon");
        }
    }

    #[tokio::test]
    async fn delay_and_throttle_take_their_time() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        let slow = [
            Network { delay: SHORT, ..Network::default() },
            Network { bytes_per_s: Some(10_000), ..Network::default() },
        ];
        for network in slow {
            proxy.set(network);
            let begun = Instant::now();
            // 3 000 bytes there and back take 600 ms at 10 000 a second, and so do two delays of 300 ms.
            assert_eq!(said_back(&mut stream, &[1; 3000]).await.len(), 3000);
            assert!(begun.elapsed() >= SHORT * 2, "{network:?}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn refused_are_new_connections_and_those_to_nobody() {
        let proxy = echo().await;
        let mut before = connect(&proxy).await;
        proxy.set(Network { refuses: true, ..Network::default() });
        let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(end(&mut refused).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(said_back(&mut before, b"still").await, b"still");
        let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
        let nobody = Proxy::before(free).await;
        let mut refused = TcpStream::connect(("127.0.0.1", nobody.port())).await.unwrap();
        assert_eq!(end(&mut refused).await, Err(ErrorKind::ConnectionReset));
    }
}
