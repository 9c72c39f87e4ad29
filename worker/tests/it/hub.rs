//! A server that behaves like the hub: one file, whose bytes lie on another server that it redirects to. The same
//! bytes are served below every other path, as a bucket or a web server does. What it does next can be scripted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kraftr_protocol::Digest;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Where the bytes are, on the server that the hub redirects to.
pub(crate) const CDN_PATH: &str = "/blobs/1?signed=yes";
/// Bytes written at once when they come slowly.
const PIECE: usize = 100_000;

/// What happens to the next request for bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trick {
    /// The connection ends after so many bytes.
    CutAfter(usize),
    /// The whole file comes, whatever was asked for.
    IgnoreRange,
    /// Another answer.
    Status(u16),
    /// It takes its time.
    Slowly,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

struct State {
    content: Vec<u8>,
    cdn: String,
    truth: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    head_status: Option<u16>,
    tricks: VecDeque<Trick>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct MockHub {
    url: String,
    state: Arc<Mutex<State>>,
}

impl MockHub {
    pub(crate) async fn start(content: Vec<u8>, revision: &str) -> Self {
        let truth: BTreeMap<String, String> = [
            ("x-repo-commit", revision.to_owned()),
            ("x-linked-size", content.len().to_string()),
            ("x-linked-etag", format!("\"{}\"", Digest::of(&content))),
            ("etag", "\"0123456789abcdef0123456789abcdef01234567\"".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let (hub, cdn) = (listen().await, listen().await);
        let state = Arc::new(Mutex::new(State {
            content,
            cdn: format!("http://{}{CDN_PATH}", cdn.local_addr().unwrap()),
            headers: truth.clone(),
            truth,
            head_status: None,
            tricks: VecDeque::new(),
            seen: Vec::new(),
        }));
        let url = format!("http://{}", hub.local_addr().unwrap());
        for listener in [hub, cdn] {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&state)));
                }
            });
        }
        Self { url, state }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// What happens to the next requests for bytes, in this order.
    pub(crate) fn play(&self, tricks: &[Trick]) {
        self.state.lock().unwrap().tricks.extend(tricks);
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Says something else about the file than is true.
    pub(crate) fn say(&self, header: &str, value: &str) {
        self.state.lock().unwrap().headers.insert(header.to_owned(), value.to_owned());
    }

    pub(crate) fn say_the_truth(&self) {
        let mut state = self.state.lock().unwrap();
        state.headers = state.truth.clone();
    }

    /// Says nothing about the file.
    pub(crate) fn silence(&self) {
        self.state.lock().unwrap().headers.clear();
    }

    /// The answer to every HEAD request from now on.
    pub(crate) fn answer_head(&self, status: u16) {
        self.state.lock().unwrap().head_status = Some(status);
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// One request for each connection: the answer says so.
async fn answer(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let mut seen = Seen { method: words.next()?, path: words.next()?, ..Seen::default() };
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.authorization = Some(value.to_owned()),
            "range" => seen.range = Some(value.to_owned()),
            _ => {}
        }
    }
    let (head, body, slowly) = respond(&mut state.lock().unwrap(), &seen);
    stream.write_all(head.as_bytes()).await.ok()?;
    for piece in body.chunks(PIECE) {
        stream.write_all(piece).await.ok()?;
        if slowly {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    stream.shutdown().await.ok()
}

fn respond(state: &mut State, request: &Seen) -> (String, Vec<u8>, bool) {
    state.seen.push(request.clone());
    let head = |status: &str, length: usize, more: String| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n")
    };
    let is_hub = request.path.contains("/resolve/");
    if is_hub {
        if let Some(status) = state.head_status.filter(|_| request.method == "HEAD") {
            return (head(&format!("{status} No"), 0, String::new()), Vec::new(), false);
        }
        let headers = state.headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]);
        let headers: String = headers.collect();
        let more = format!("{headers}location: {}\r\n", state.cdn);
        return (head("302 Found", 0, more), Vec::new(), false);
    }
    let trick = state.tricks.pop_front();
    if let Some(Trick::Status(status)) = trick {
        return (head(&format!("{status} No"), 0, String::new()), Vec::new(), false);
    }
    let all = state.content.len();
    let from = request
        .range
        .as_ref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (status, from, more) = match from {
        Some(from) if from < all && !matches!(trick, Some(Trick::IgnoreRange)) => {
            ("206 Partial Content", from, format!("content-range: bytes {from}-{}/{all}\r\n", all - 1))
        }
        _ => ("200 OK", 0, String::new()),
    };
    let mut body = state.content[from..].to_vec();
    let head = head(status, body.len(), more);
    if let Some(Trick::CutAfter(bytes)) = trick {
        body.truncate(bytes);
    }
    (head, body, matches!(trick, Some(Trick::Slowly)))
}
