//! Idempotency keys: a repeat is acked as the first was, another body never.

use protocol::Page;
use serde_json::{Value, json};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

#[test]
fn a_key_with_another_body_is_refused_with_the_place_of_the_first_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let mut ann = Client::native(relay.address, "ann");
    let (seq, id) = ann.call(publish("r", "forged", Some("ann-7"))).acked();
    assert_eq!(ann.call(publish("r", "what ann wrote", Some("ann-7"))), Event::KeyTaken { seq, id });
    assert_eq!(ann.call(publish("r", "forged", Some("ann-7"))).acked(), (seq, id));
    relay.kill();

    let relay = Relay::on(dir.path(), &[]);
    let mut ann = Client::native(relay.address, "ann");
    assert_eq!(ann.call(publish("r", "what ann wrote", Some("ann-7"))), Event::KeyTaken { seq, id });
    assert_eq!(ann.call(publish("r", "forged", Some("ann-7"))).acked(), (seq, id));
    let mut sdk = Client::centrifuge(relay.address, "ann");
    let reply = sdk.call_json("publish", &json!({ "channel": "r", "data": "what ann wrote", "key": "ann-7" }));
    assert_refused(&reply, seq, id);
    // The body counts as it is sent: a text of the native dialect is no JSON string.
    assert_refused(&sdk.call_json("publish", &json!({ "channel": "r", "data": "forged", "key": "ann-7" })), seq, id);
    let mut bob = Client::native(relay.address, "bob");
    assert_eq!(bob.call(publish("r", "another user's", Some("ann-7"))).acked().0, seq + 1);
    assert_eq!(ann.history("r", Page::Newest, 10).len(), 2);
}

#[test]
fn a_key_with_another_body_waits_until_the_first_is_stored() {
    let relay = Relay::in_memory(&[]);
    let mut ann = Client::native(relay.address, "ann");
    let tags: Vec<_> = ["one", "two", "one"].map(|text| ann.publish("r", text, Some("k"))).into();
    let replies: Vec<_> = tags.into_iter().map(|tag| ann.reply(tag)).collect();
    let (seq, id) = replies[0].acked();
    assert_eq!(replies[1..], [Event::KeyTaken { seq, id }, Event::Acked { seq, id }]);
}

fn assert_refused(reply: &Value, seq: u64, id: u64) {
    let error = &reply["error"];
    assert_eq!((&error["code"], &error["temporary"]), (&json!(409), &json!(false)), "{reply}");
    assert_eq!((&error["offset"], &error["id"]), (&json!(seq), &json!(id.to_string())), "{reply}");
    assert!(error["message"].as_str().unwrap().contains(&format!("offset {seq}")), "{reply}");
}
