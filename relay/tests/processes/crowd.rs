//! A thousand clients.

use std::collections::HashMap;

use protocol::Start;

use crate::client::Client;
use crate::event::Line;
use crate::process::Relay;

const ROOMS: usize = 5;
const USERS_A_ROOM: usize = 200;
const LINES_A_USER: usize = 3;

#[test]
fn each_of_a_thousand_clients_gets_everything_once_and_in_one_order() {
    let relay = Relay::in_memory(&[]);
    let mut clients: Vec<Client> =
        (0..ROOMS * USERS_A_ROOM).map(|n| Client::native(relay.address, &format!("user-{n}"))).collect();
    let room_of = |n: usize| format!("crowd-{}", n % ROOMS);
    for (n, client) in clients.iter_mut().enumerate() {
        client.join(&room_of(n), Start::Recent(0));
    }
    let mut tags = vec![Vec::new(); clients.len()];
    for k in 0..LINES_A_USER {
        for (n, client) in clients.iter_mut().enumerate() {
            tags[n].push(client.publish(&room_of(n), &format!("user-{n} says {k}"), None));
        }
    }
    let mut logs: HashMap<String, Vec<Line>> = HashMap::new();
    for (n, client) in clients.iter_mut().enumerate() {
        let acks: Vec<_> = tags[n].iter().map(|&tag| client.reply(tag).acked()).collect();
        let heard = client.lines(USERS_A_ROOM * LINES_A_USER);
        let mine: Vec<_> = heard.iter().filter(|line| line.user == format!("user-{n}")).collect();
        assert_eq!(mine.iter().map(|line| (line.seq, line.id)).collect::<Vec<_>>(), acks);
        for (k, line) in mine.iter().enumerate() {
            assert_eq!(line.text(), format!("user-{n} says {k}"));
        }
        let log = logs.entry(room_of(n)).or_insert_with(|| heard.clone());
        assert!(*log == heard, "user-{n} saw another log than the first member of {}", room_of(n));
    }
    for (room, log) in logs {
        assert!(log.iter().map(|line| line.seq).eq(1..=(USERS_A_ROOM * LINES_A_USER) as u64), "{room} is not dense");
    }
}
