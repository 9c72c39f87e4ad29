//! The conformance suite over a real broker, each promise in a namespace of its own, and what is particular
//! to a broker.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kraftr_protocol::message::{Control, Reply};
use kraftr_transport::conformance::{self, PATIENCE};
use kraftr_transport::rabbit::{RabbitConfig, RabbitMq};
use kraftr_transport::{Transport as _, TransportError};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::words::{heartbeat, job, lane};

/// The broker's URL; a suite that did not run proves nothing, so a missing variable fails it.
#[expect(clippy::disallowed_methods, reason = "tests are told about their services as the program is")]
fn url() -> String {
    std::env::var("KRAFTR_AMQP_URL").unwrap_or_else(|_| {
        panic!("KRAFTR_AMQP_URL is not set; eval \"$(scripts/services up --dir DIR)\" starts the services and says where they are")
    })
}

/// A namespace that is nobody else's.
fn config() -> RabbitConfig {
    let random = SysRng.try_next_u64().unwrap();
    RabbitConfig { namespace: format!("test.{random:016x}"), ..RabbitConfig::new(url()) }
}

async fn fresh() -> RabbitMq {
    RabbitMq::connect(config()).await.unwrap()
}

macro_rules! suite {
    ($($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let transport = fresh().await;
            conformance::$promise(&transport).await;
            transport.close().await;
        }
    )+};
}

suite! {
    accepted_messages_arrive
    acknowledged_messages_do_not_return
    consumers_compete
    requeued_and_dropped_messages_return_marked
    lanes_are_consumed_in_order
    prefetch_bounds_what_is_held
    a_dropped_source_gives_back_and_lets_settle
    next_is_cancel_safe
    broadcasts_reach_every_subscriber
    slow_subscribers_hold_nobody_up
    calls_are_answered
    unanswered_calls_time_out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_settles_everything_once() {
    conformance::a_crowd_settles_everything_once(fresh().await).await;
}

/// Between a client and the broker; cuts every connection on demand.
struct Proxy {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    async fn new(broker: &str) -> Self {
        let broker = broker.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (broker, mut cuts) = (broker.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(broker).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut, _task: AbortOnDropHandle::new(task) }
    }

    fn cut(&self) {
        self.cut.send_modify(|times| *times += 1);
    }
}

/// A broker URL that leads through a proxy.
async fn through_proxy() -> (RabbitConfig, Proxy) {
    let direct = url();
    let (user, address) = direct.split_once('@').unwrap();
    let (address, vhost) = address.split_once('/').unwrap_or((address, "%2f"));
    let proxy = Proxy::new(address).await;
    let url = format!("{user}@{}/{vhost}", proxy.address);
    (RabbitConfig { url: url.into(), ..config() }, proxy)
}

/// While the connection is cut again and again, nothing that was accepted is lost, and every subscription goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_loses_nothing() {
    const JOBS: u32 = 400;
    let (config, proxy) = through_proxy().await;
    let transport = Arc::new(RabbitMq::connect(config).await.unwrap());
    let mut jobs = transport.consume_jobs(&[lane()], 4).await.unwrap();
    let mut calls = transport.serve_calls().await.unwrap();
    let mut control = transport.consume_control().await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(call) = calls.next().await {
            call.answer(Reply::Fenced);
        }
    });
    let publishing = {
        let transport = Arc::clone(&transport);
        tokio::spawn(async move {
            for attempt in 0..JOBS {
                transport.publish_job(&lane(), job(attempt)).await.unwrap();
            }
        })
    };
    let mut arrived = BTreeSet::new();
    while arrived.len() < JOBS as usize {
        let delivery = tokio::time::timeout(PATIENCE, jobs.next()).await.expect("a job comes").unwrap();
        if arrived.insert(delivery.body.attempt) && arrived.len() % 100 == 50 {
            proxy.cut();
        }
        delivery.ack();
    }
    publishing.await.unwrap();
    proxy.cut();
    let answered = async {
        while transport.call(heartbeat()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("calls are answered again");
    let heard = async {
        loop {
            transport.publish_control(Control::Drain { worker: None });
            if tokio::time::timeout(Duration::from_millis(200), control.next()).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("control is heard again");
    transport.close().await;
    assert!(jobs.next().await.is_none() && control.next().await.is_none());
    assert!(matches!(transport.publish_job(&lane(), job(0)).await, Err(TransportError::Closed)));
    answering.await.unwrap();
}

/// A lane whose queue was deleted meanwhile is declared again, and the message that came back is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_message_is_published_again() {
    let config = config();
    let queue = format!("{}.jobs.{}", config.namespace, lane());
    let transport = RabbitMq::connect(config).await.unwrap();
    transport.publish_job(&lane(), job(1)).await.unwrap();
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    transport.publish_job(&lane(), job(2)).await.unwrap();
    let mut jobs = transport.consume_jobs(&[lane()], 1).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, jobs.next()).await.expect("it is there").unwrap();
    assert_eq!(delivery.body, job(2));
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_too_often_is_given_up() {
    let transport = RabbitMq::connect(RabbitConfig { delivery_limit: 3, ..config() }).await.unwrap();
    conformance::what_comes_back_too_often_is_given_up(&transport).await;
    transport.close().await;
}

/// Whoever tells the workers something knows whether anybody listened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_message_says_whether_anybody_listens() {
    let transport = fresh().await;
    let control = Control::Load { worker: None, release: "r".to_owned() };
    assert!(!transport.tell(control.clone()).await.unwrap());
    let mut listener = transport.consume_control().await.unwrap();
    assert!(transport.tell(control.clone()).await.unwrap());
    assert_eq!(tokio::time::timeout(PATIENCE, listener.next()).await.unwrap(), Some(control));
    transport.close().await;
}

/// A queue that is not there is told from an empty one; messages that wait and consumers are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_has_no_depth() {
    let transport = fresh().await;
    let queue = transport.queue_of(&lane());
    let depth = async || {
        let depths = transport.depths(&[lane()]).await.unwrap();
        depths.into_iter().find(|found| found.queue == queue).unwrap().depth
    };
    assert_eq!(depth().await, None);
    transport.publish_job(&lane(), job(1)).await.unwrap();
    assert_eq!(depth().await, Some((1, 0)));
    let mut jobs = transport.consume_jobs(&[lane()], 1).await.unwrap();
    tokio::time::timeout(PATIENCE, jobs.next()).await.unwrap().unwrap().ack();
    assert_eq!(depth().await, Some((0, 1)));
    transport.close().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_without_the_password() {
    let config = RabbitConfig {
        patience: Duration::from_millis(300),
        ..RabbitConfig::new("amqp://user:hunter2@127.0.0.1:9/%2f")
    };
    assert!(!format!("{config:?}").contains("hunter2"));
    let refused = RabbitMq::connect(config).await.err().unwrap();
    assert!(matches!(refused, TransportError::Unavailable { .. }), "{refused}");
    let wrong = RabbitMq::connect(RabbitConfig::new("http://localhost")).await.err().unwrap().to_string();
    assert!(wrong.contains("URL") && !wrong.contains("hunter2"), "{wrong}");
}
