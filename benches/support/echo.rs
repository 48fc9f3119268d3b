//! An echo: a server that decodes counts and answers each with a decision that it did not have to
//! find, over the daemon's transports. Judged beside it, a daemon is judged and not the machine.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use prost::Message;
use redis::Commands;
use redis::streams::{StreamReadOptions, StreamReadReply};
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_server::{Ingest, IngestServer};
use regimed::internals::wire::{
    Counts, Decision, ExchangeReply, IngestSummary, Spikes, SpikesSummary,
};
use tonic::{Request as Call, Response as Answer, Status, Streaming};
use zeromq::{Socket, SocketRecv, SocketSend, ZmqMessage};

/// Streams of a graph: counts, and what comes back.
pub(crate) const STREAMS: [&str; 2] = ["binned_spikes", "regimes"];

/// A decision as long as the built-in model's.
fn decision(counts: &Counts) -> Decision {
    Decision {
        session: counts.session.clone(),
        sequence: counts.sequence,
        bin: counts.sequence,
        latency_ns: 1,
        rig_time_ns: counts.rig_time_ns,
        regime: "limit cycle".into(),
        posterior: vec![0.2; 5],
        regime_names: ["stable", "bistable", "limit cycle", "ring", "chaotic"]
            .map(Into::into)
            .into(),
        embedding_mean: vec![0.1; 8],
        embedding_sd: vec![0.1; 8],
        latent: vec![0.1; 8],
        latent_sd: vec![0.1; 8],
        ..Decision::default()
    }
}

struct Echo;

type Replies = Pin<Box<dyn Stream<Item = Result<ExchangeReply, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Echo {
    type ExchangeStream = Replies;

    async fn exchange(&self, call: Call<Streaming<Counts>>) -> Result<Answer<Replies>, Status> {
        let replies = call.into_inner().map(|counts| {
            let reply = Some(Reply::Decision(decision(&counts?)));
            Ok(ExchangeReply { reply })
        });
        Ok(Answer::new(Box::pin(replies)))
    }

    async fn send_counts(
        &self,
        _: Call<Streaming<Counts>>,
    ) -> Result<Answer<IngestSummary>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn send_spikes(
        &self,
        _: Call<Streaming<Spikes>>,
    ) -> Result<Answer<SpikesSummary>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}

/// Answers over a way, until it is killed; prints where counts go and where decisions come from.
pub(crate) async fn answer(way: &str, redis: Option<&String>) {
    if let Some(url) = redis {
        println!("{url} -");
        return tokio::task::block_in_place(|| answer_redis(url));
    }
    if way == "gRPC" {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{} -", listener.local_addr().expect("bound"));
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder().add_service(IngestServer::new(Echo));
        return server.serve_with_incoming(incoming).await.expect("it serves");
    }
    let (mut pull, mut publish) = (zeromq::PullSocket::new(), zeromq::PubSocket::new());
    let from = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let to = publish.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    println!("{} {}", from.trim_start_matches("tcp://"), to.trim_start_matches("tcp://"));
    loop {
        let message = pull.recv().await.expect("counts");
        let counts = Counts::decode(message.get(0).expect("a frame").as_ref()).expect("counts");
        let mut answer = ZmqMessage::from("rig/decision");
        answer.push_back(decision(&counts).encode_to_vec().into());
        publish.send(answer).await.expect("sent");
    }
}

/// Entries of a stream behind `last`, as they come.
pub(crate) fn entries(
    redis: &mut redis::Connection,
    stream: &str,
    last: &mut String,
) -> Vec<redis::streams::StreamId> {
    let options = StreamReadOptions::default().block(2_000).count(1_000);
    let reply: Option<StreamReadReply> =
        redis.xread_options(&[stream], &[last.as_str()], &options).expect("read");
    let found: Vec<_> = reply.into_iter().flat_map(|r| r.keys).flat_map(|key| key.ids).collect();
    if let Some(newest) = found.last() {
        last.clone_from(&newest.id);
    }
    found
}

fn answer_redis(url: &str) {
    let client = redis::Client::open(url).expect("an address");
    let mut redis = client.get_connection().expect("connected");
    let mut last = "0".to_owned();
    let posterior: Vec<u8> = [0.2f32; 5].iter().flat_map(|p| p.to_le_bytes()).collect();
    loop {
        for entry in entries(&mut redis, STREAMS[0], &mut last) {
            let field = |name: &str| entry.get::<Vec<u8>>(name).unwrap_or_default();
            let samples = field("samples");
            assert!(!samples.is_empty(), "counts of a bin");
            let (i, sync, ts) = (field("i"), field("sync"), 1u64.to_le_bytes());
            // As long as what the daemon writes.
            let fields: [(&str, &[u8]); 13] = [
                ("samples", &posterior),
                ("i", &i),
                ("ts", &ts),
                ("sync", &sync),
                ("label", b"limit_cycle"),
                ("regime_names", b"stable,bistable,limit_cycle,ring,chaotic"),
                ("changed", &[0]),
                ("predicted", &[0]),
                ("novelty", &[0; 4]),
                ("latents", &[0; 32]),
                ("spectral_radius", &[0; 12]),
                ("spectral_abscissa_per_s", &[0; 12]),
                ("lyapunov_max_driven_per_s", &[0; 12]),
            ];
            let _: String = redis.xadd(STREAMS[1], "*", &fields).expect("added");
        }
    }
}
