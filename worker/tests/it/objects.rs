//! An object store as workers see it: GET and PUT over HTTP/1.1, with answers that can be scripted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Status lines that the next requests of a method get instead of an answer.
    refusals: BTreeMap<&'static str, VecDeque<&'static str>>,
    headers: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Objects {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Objects {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        Self { url, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        self.state.lock().unwrap().files.insert(path.to_owned(), bytes.to_vec());
    }

    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().files.get(path).cloned()
    }

    /// The next requests of that method get these statuses, such as `503 Service Unavailable`.
    pub(crate) fn refuse(&self, method: &'static str, statuses: &[&'static str]) {
        self.state.lock().unwrap().refusals.entry(method).or_default().extend(statuses);
    }

    /// Refusals that nobody has met yet.
    pub(crate) fn refusals_left(&self) -> usize {
        self.state.lock().unwrap().refusals.values().map(VecDeque::len).sum()
    }

    /// Whether a request had this header, in lower case.
    pub(crate) fn saw_header(&self, header: &str) -> bool {
        self.state.lock().unwrap().headers.iter().any(|seen| seen == header)
    }
}

/// One request for each connection: the answer says so.
async fn answer(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let (method, path) = line
        .split_once(' ')
        .map(|(method, rest)| (method.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        state.lock().unwrap().headers.push(header);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (status, file) = respond(&state, &method, &path, body);
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", file.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&file).await.ok()?;
    stream.shutdown().await.ok()
}

fn respond(state: &Mutex<State>, method: &str, path: &str, body: Vec<u8>) -> (&'static str, Vec<u8>) {
    let mut state = state.lock().unwrap();
    if let Some(refusal) = state.refusals.get_mut(method).and_then(VecDeque::pop_front) {
        return (refusal, Vec::new());
    }
    if method == "PUT" {
        state.files.insert(path.to_owned(), body);
        return ("200 OK", Vec::new());
    }
    match state.files.get(path) {
        Some(file) => ("200 OK", file.clone()),
        None => ("404 Not Found", Vec::new()),
    }
}
