//! The whole process stands still for a while, as under a debugger or on a machine that moves.

use std::thread;
use std::time::Duration;

use protocol::{Command, Start};
use rustix::process::Signal;

use crate::client::Client;
use crate::event::Event;
use crate::process::{Relay, SHARDS};

#[test]
fn connections_survive_a_pause_longer_than_the_idle_timeout() {
    let relay = Relay::in_memory(&["--ping-interval-ms", "1000", "--idle-timeout-ms", "2000"]);
    let mut clients = Client::one_on_each_shard(relay.address, SHARDS);
    for client in &mut clients {
        client.join("r", Start::Recent(0));
    }
    relay.signal(Signal::STOP);
    let sent_meanwhile = clients[0].publish("r", "said to nobody", None);
    // Not to wait for something: this is what happens to the relay.
    thread::sleep(Duration::from_secs(3));
    relay.signal(Signal::CONT);
    assert_eq!(clients[0].reply(sent_meanwhile).acked().0, 1);
    for client in &mut clients {
        // The silent one is asked for a sign of life before it is given up.
        client.ping();
        assert_eq!(client.lines(1)[0].text(), "said to nobody");
        assert_eq!(client.call(Command::Ping), Event::Pong);
    }
}
