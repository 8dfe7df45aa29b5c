//! What a message may have beside its user and body, and who is told of it.

use std::path::Path;
use std::sync::Arc;

use protocol::snowflake::EPOCH_MS;
use protocol::{ClientId, Command, Content, Kind, NewParts, OwnedParts, Page, Start};
use serde_json::json;
use storage::{Append, EmbeddedStore, Options, Record, Store};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

/// A room as a later relay, with tokens and edits, may leave it: a message with all parts, an edit of it, a plain one.
fn fill(dir: &Path, parts: &OwnedParts) {
    let store = EmbeddedStore::open(dir, Options::default()).unwrap();
    let record = |seq, kind, parts: &OwnedParts| Record {
        kind,
        seq,
        id: seq << 22,
        time_ms: EPOCH_MS + seq,
        sender: "ann".into(),
        content: Content::Json,
        body: format!("{seq}").into_bytes().into(),
        key: None,
        parts: parts.clone(),
    };
    let edit = NewParts { target: Some(1), ..NewParts::default() }.pack();
    let none = OwnedParts::default();
    let records = [record(1, Kind::Message, parts), record(2, Kind::Other(1), &edit), record(3, Kind::Message, &none)];
    let epoch = store.open_log("r").unwrap().epoch;
    store.append(&[Append { room: "r".into(), epoch, records: records.map(Arc::new).into() }]).unwrap();
}

#[test]
fn parts_reach_those_who_ask_and_an_unknown_kind_is_not_shown_as_something_said() {
    let dir = tempfile::tempdir().unwrap();
    let parts = NewParts {
        client: Some(ClientId(7)),
        info: Some(br#"{"name":"Ann"}"#),
        room_info: Some(b"[1]"),
        tags: &[("lang", "ko")],
        target: None,
    };
    let parts = parts.pack();
    fill(dir.path(), &parts);
    let relay = Relay::on(dir.path(), &[]);

    let mut plain = Client::native(relay.address, "plain");
    let lines = plain.history("r", Page::After(0), 10);
    assert_eq!(lines.iter().map(|line| line.kind).collect::<Vec<_>>(), [Kind::Message, Kind::Other(1), Kind::Message]);
    assert!(lines.iter().all(|line| line.parts.get().is_empty()), "nobody asked for them");

    let mut asking = Client::asking_for_parts(relay.address).connected("asking");
    asking.join("r", Start::Recent(10));
    let lines = asking.lines(3);
    assert_eq!(lines[0].parts, parts);
    assert_eq!((lines[1].kind, lines[1].parts.get().target()), (Kind::Other(1), Some(1)));
    assert!(lines[2].parts.get().is_empty());

    let mut sdk = Client::centrifuge(relay.address, "sdk");
    sdk.call_json("subscribe", &json!({ "channel": "r", "recent": 10 }));
    let shown: Vec<_> = (0..2).map(|_| sdk.next().1.json()["push"]["pub"].clone()).collect();
    assert_eq!(shown[0]["tags"], json!({ "lang": "ko" }));
    let info = json!({ "user": "ann", "client": "0000000000007", "conn_info": { "name": "Ann" }, "chan_info": [1] });
    assert_eq!(shown[0]["info"], info);
    assert_eq!((&shown[1]["offset"], &shown[1]["info"]), (&json!(3), &json!({ "user": "ann", "client": "" })));
    assert_eq!(shown[1].get("tags"), None);
}

#[test]
fn a_client_is_known_by_the_id_of_its_connect_reply_and_by_another_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        // The one connection of one shard: its session has the same number each time.
        let relay = Relay::on(dir.path(), &["--shards", "1"]);
        let mut asking = Client::asking_for_parts(relay.address);
        let Event::Connected { client, session } = asking.call(Command::Connect { user: None, device: None }) else {
            panic!("not connected")
        };
        asking.join("r", Start::Recent(0));
        asking.call(publish("r", "mine", None)).acked();
        assert_eq!(asking.lines(1)[0].parts.get().client(), Some(client));
        ids.push((session, client));
        relay.kill();
    }
    assert_eq!(ids[0].0, ids[1].0);
    assert_ne!(ids[0].1, ids[1].1);
}
