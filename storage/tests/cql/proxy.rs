//! Faults between the driver and a node: a `scylla-proxy` whose rules change while it runs. Slow: 90 ms a round trip.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scylla::errors::{DbError, WriteType};
use scylla::statement::Consistency;
use scylla_proxy::{
    Condition, Node, Proxy as Rules, Reaction, RequestFrame, RequestOpcode, RequestReaction, RequestRule,
    ResponseFrame, ResponseOpcode, ResponseReaction, ResponseRule, RunningProxy, ShardAwareness,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A proxy in front of one node; ends when it is dropped. The driver does not go round it, because it takes a node's port
/// from the address it was given.
pub struct Proxy {
    address: SocketAddr,
    running: Mutex<RunningProxy>,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts one that passes everything on.
    pub fn start(node: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let rules = Rules::new([Node::new(node, address, ShardAwareness::Unaware, None, None)]);
        let running = Mutex::new(runtime.block_on(rules.run()).unwrap());
        Self { address, running, _runtime: runtime }
    }

    /// Where it listens, on loopback as the node does.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, this happens to requests; to each the first rule that fits, and only that.
    pub fn on_requests<const N: usize>(&self, rules: [(Condition, RequestReaction); N]) {
        let rules = rules.map(|(when, then)| RequestRule(when, then));
        self.running.lock().unwrap().running_nodes[0].change_request_rules(Some(rules.into()));
    }

    /// From now on, this happens to responses; to each the first rule that fits, and only that.
    pub fn on_responses<const N: usize>(&self, rules: [(Condition, ResponseReaction); N]) {
        let rules = rules.map(|(when, then)| ResponseRule(when, then));
        self.running.lock().unwrap().running_nodes[0].change_response_rules(Some(rules.into()));
    }

    /// From now on, all statements arrive so much later, even if the driver has gone by then.
    pub fn delay(&self, by: Duration) -> Delayed {
        let (asking, asked) = unbounded_channel();
        let (answering, answered) = unbounded_channel();
        self.on_requests([(batches(), late(by).with_feedback_when_performed(asking)), (statements(), late(by))]);
        self.on_responses([(results(), ResponseReaction::noop().with_feedback_when_performed(answering))]);
        Delayed { asked, answered }
    }

    /// From now on, everything passes.
    pub fn calm(&self) {
        self.running.lock().unwrap().turn_off_rules();
    }
}

/// Batches that were delayed, and the answers of the node.
pub struct Delayed {
    asked: UnboundedReceiver<(RequestFrame, Option<u16>)>,
    answered: UnboundedReceiver<(ResponseFrame, Option<u16>)>,
}

impl Delayed {
    /// Waits until every batch that was sent before this call was carried out; how many there were.
    pub fn wait(mut self) -> usize {
        let mut streams: Vec<_> =
            std::iter::from_fn(|| self.asked.try_recv().ok()).map(|(it, _)| it.params.stream).collect();
        let count = streams.len();
        while !streams.is_empty() {
            let (answer, _) = self.answered.blocking_recv().unwrap();
            streams.retain(|&stream| stream != answer.params.stream);
        }
        count
    }
}

/// The next `times` requests that carry prepared statements.
pub fn next(times: usize) -> Condition {
    statements().and(Condition::TrueForLimitedTimes(times))
}

/// Requests that carry prepared statements: EXECUTE and BATCH.
pub fn statements() -> Condition {
    Condition::RequestOpcode(RequestOpcode::Execute).or(batches())
}

/// Requests about the store's lease: one of their values is its scope.
pub fn about_leases() -> Condition {
    Condition::BodyContainsCaseSensitive(Box::from(*b"\0\0\0\x05relay"))
}

/// Requests that carry several statements.
pub fn batches() -> Condition {
    Condition::RequestOpcode(RequestOpcode::Batch)
}

/// Responses to statements, or to PREPARE.
pub fn results() -> Condition {
    Condition::ResponseOpcode(ResponseOpcode::Result)
}

/// The request is not carried out: the node has too much to do.
pub fn overloaded() -> RequestReaction {
    RequestReaction::forge_with_error(DbError::Overloaded)
}

/// The request was carried out, and its response says that this is not known.
pub fn write_timeout() -> ResponseReaction {
    let timeout = DbError::WriteTimeout {
        consistency: Consistency::LocalQuorum,
        received: 0,
        required: 1,
        write_type: WriteType::UnloggedBatch,
    };
    ResponseReaction::transform_frame(Arc::new(move |response: ResponseFrame| {
        ResponseFrame::forged_error(response.params.for_request(), timeout.clone(), None).unwrap()
    }))
}

/// The request is lost, and with it every connection to the node.
pub fn cut() -> RequestReaction {
    RequestReaction::drop_connection()
}

/// The request arrives so much later, even if the driver has gone by then.
pub fn late(by: Duration) -> RequestReaction {
    RequestReaction::delay(by)
}
