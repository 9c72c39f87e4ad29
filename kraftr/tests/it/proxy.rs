//! A proxy between a process and a service that breaks the connection between them on command.
//!
//! It passes bytes on as they are: signatures over a host and a port hold, because both sides know only the
//! proxy's. What it breaks can be narrowed to the connections of presigned links, which is how a worker's
//! requests to the object store are told from a scheduler's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use crate::program::PATIENCE;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Nothing,
    /// Every connection is dropped, new ones at once.
    Cut,
    /// Nothing comes through in either direction; what was sent arrives late, once it heals.
    Silence,
    /// Requests go nowhere and answers never come; who waited is cut off once it heals.
    Hang,
    /// Every HTTP request is answered with 503.
    Unavailable,
    /// From the first request that contains the words on, nothing comes through: not that request either.
    BeforeRequest(&'static str),
    /// From the first request that contains the words on, no answer comes back; the request itself arrives.
    BeforeAnswer(&'static str),
}

/// Whose connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Everyone,
    /// Those that begin with a presigned link: a worker's, at the object store.
    Presigned,
    /// All others: a scheduler's, at the object store.
    Own,
}

impl Whose {
    fn includes(self, first: &[u8]) -> bool {
        match self {
            Self::Everyone => true,
            Self::Presigned => contains(first, b"X-Amz-Signature="),
            Self::Own => !Self::Presigned.includes(first),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct State {
    fault: Fault,
    whose: Whose,
    /// The words have been seen.
    sprung: bool,
    /// Rises with every command, so that a connection sees one that is already over.
    command: u64,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    /// Connections under way.
    open: watch::Sender<usize>,
    /// Pieces of traffic and connections that the present fault has stopped.
    stopped: AtomicUsize,
}

/// A proxy in front of one service; it ends with this value.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of what `url` leads to.
    pub(crate) async fn before(url: &str) -> Self {
        let url: Url = url.parse().unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { fault: Fault::Nothing, whose: Whose::Everyone, sprung: false, command: 0 };
        let shared = Arc::new(Shared {
            state: watch::Sender::new(state),
            open: watch::Sender::new(0),
            stopped: AtomicUsize::new(0),
        });
        let listening = tokio::spawn(listen(listener, target, Arc::clone(&shared)));
        Self { address, shared, listening }
    }

    /// `url` by way of this proxy.
    pub(crate) fn lead(&self, url: &str) -> String {
        let mut url: Url = url.parse().unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// From now on this goes wrong.
    pub(crate) fn fault(&self, fault: Fault, whose: Whose) {
        self.shared.stopped.store(0, Ordering::SeqCst);
        self.shared.state.send_modify(|state| {
            *state = State { fault, whose, sprung: false, command: state.command + 1 };
        });
    }

    pub(crate) fn heal(&self) {
        self.fault(Fault::Nothing, Whose::Everyone);
    }

    /// How much the fault has stopped so far.
    pub(crate) fn stopped(&self) -> usize {
        self.shared.stopped.load(Ordering::SeqCst)
    }

    /// Waits until the request that a fault waits for has come.
    pub(crate) async fn sprung(&self) {
        let mut state = self.shared.state.subscribe();
        let sprung = state.wait_for(|state| state.sprung);
        tokio::time::timeout(PATIENCE, sprung).await.expect("the request comes in time").unwrap();
    }

    /// Drops every connection with all that it holds, then lets new ones through.
    pub(crate) async fn sever(&self) {
        self.fault(Fault::Cut, Whose::Everyone);
        let mut open = self.shared.open.subscribe();
        tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
        self.heal();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.fault(Fault::Cut, Whose::Everyone);
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, target: String, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            shared.open.send_modify(|open| *open += 1);
            // A connection that breaks is what this is for.
            serve(client, &target, &shared).await.ok();
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

/// The two directions of one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

async fn serve(mut client: TcpStream, target: &str, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let length = tokio::select! {
        length = client.read(&mut buffer) => length?,
        () = shared.until(|state| state.fault == Fault::Cut && state.whose == Whose::Everyone) => 0,
    };
    if length == 0 {
        shared.stopped.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    let first = buffer[..length].to_vec();
    let mine = |state: &State| state.whose.includes(&first);
    if shared.now(|state| mine(state) && state.fault == Fault::Unavailable) {
        shared.stopped.fetch_add(1, Ordering::SeqCst);
        return answer_unavailable(client, buffer).await;
    }
    client.set_nodelay(true)?;
    let service = TcpStream::connect(target).await?;
    service.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (service_reads, service_writes) = service.into_split();
    // What a cut, and the end of a hang, does to a connection that stands.
    let broken = async {
        shared
            .until(|state| {
                mine(state) && matches!(state.fault, Fault::Cut | Fault::Unavailable | Fault::Hang)
            })
            .await;
        shared.stopped.fetch_add(1, Ordering::SeqCst);
        let hung = shared.state.borrow().command;
        shared.until(|state| state.fault != Fault::Hang || state.command != hung).await;
    };
    tokio::select! {
        // What is broken lets nothing slip through.
        biased;
        () = broken => Ok(()),
        ended = pump(client_reads, service_writes, Way::Up, &first, shared) => ended,
        ended = pump(service_reads, client_writes, Way::Down, &first, shared) => ended,
    }
}

/// Passes bytes on while nothing is wrong. The first bytes of a client have been read already.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: Way,
    first: &[u8],
    shared: &Shared,
) -> std::io::Result<()> {
    let mut piece = if way == Way::Up { first.to_vec() } else { Vec::new() };
    // What was passed on last: words may lie across two pieces.
    let mut before: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if !piece.is_empty() {
            if way == Way::Up {
                let keep = before.len().saturating_sub(256);
                before.drain(..keep);
                before.extend_from_slice(&piece);
                shared.look(&before, first);
            }
            let held = |state: &State| state.whose.includes(first) && state.holds(way);
            if shared.now(held) {
                shared.stopped.fetch_add(1, Ordering::SeqCst);
                shared.until(|state| !held(state)).await;
            }
            to.write_all(&piece).await?;
        }
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        piece = buffer[..length].to_vec();
    }
}

impl State {
    /// True while nothing goes that way.
    fn holds(&self, way: Way) -> bool {
        match self.fault {
            Fault::Nothing | Fault::Cut | Fault::Unavailable => false,
            Fault::Silence | Fault::Hang => true,
            Fault::BeforeRequest(_) => self.sprung,
            Fault::BeforeAnswer(_) => self.sprung && way == Way::Down,
        }
    }
}

impl Shared {
    fn now(&self, is: impl Fn(&State) -> bool) -> bool {
        is(&self.state.borrow())
    }

    async fn until(&self, is: impl Fn(&State) -> bool) {
        // The sender is part of `self`, so it is there.
        self.state.subscribe().wait_for(|state| is(state)).await.map(drop).unwrap();
    }

    /// Springs the trap where the words are.
    fn look(&self, passing: &[u8], first: &[u8]) {
        self.state.send_if_modified(|state| {
            let (Fault::BeforeRequest(words) | Fault::BeforeAnswer(words)) = state.fault else {
                return false;
            };
            let springs = !state.sprung && state.whose.includes(first) && contains(passing, words.as_bytes());
            state.sprung |= springs;
            springs
        });
    }
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// One answer, whatever is asked; then the connection ends.
async fn answer_unavailable(mut client: TcpStream, mut buffer: Vec<u8>) -> std::io::Result<()> {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(answer).await?;
    client.shutdown().await?;
    // A client that still sends would hear a reset instead of the answer.
    let drain = async {
        while client.read(&mut buffer).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    tokio::time::timeout(PATIENCE, drain).await.unwrap_or(Ok(()))
}
