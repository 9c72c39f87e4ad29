//! What only shows on a real connection: refusals while the client is still sending.

use kraftr_protocol::limits::ASSET_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pictures::FORM_TYPE;
use super::server::{PATIENCE, Server};

/// Sends a whole request, as a client does that only then reads, and reads the answer to its end.
async fn exchange(server: &Server, head: &str, body: &[u8]) -> String {
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = head.replace("KEY", &server.key).replace('\n', "\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body).await.expect("the server reads on while it refuses");
    read_answer(connection).await
}

async fn read_answer(mut connection: TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer))
        .await
        .expect("an answer comes")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start().await;
    let length = ASSET_BYTES_MAX + 5_000_000;
    let body = vec![b'x'; length];
    let head = format!(
        "POST /v1/assets HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer KEY\nContent-Type: {FORM_TYPE}\n\
         Content-Length: {length}\n\n"
    );
    let answer = exchange(&server, &head, &body).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("image_too_large"), "{answer}");
    let stranger = head.replace("Bearer KEY", "Bearer wrong");
    let answer = exchange(&server, &stranger, &body).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("api_key_malformed"), "{answer}");
    server.finish().await;
}

#[tokio::test]
async fn a_client_that_asks_first_sends_nothing() {
    let server = Server::start().await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/assets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {FORM_TYPE}\r\nContent-Length: 99000000\r\nExpect: 100-continue\r\n\r\n",
        server.key
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(connection).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && !answer.contains("100 Continue"), "{answer}");
    server.finish().await;
}

#[tokio::test]
async fn a_cut_upload_leaves_nothing() {
    let server = Server::start().await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/assets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: {FORM_TYPE}\r\n\
         Content-Length: 5000\r\n\r\n--frontier\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf",
        server.key
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let answer = read_answer(connection).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    server.finish().await;
}
