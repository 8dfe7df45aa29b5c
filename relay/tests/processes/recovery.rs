//! A client that comes back gets what it missed.

use protocol::{Page, Start};

use crate::client::Client;
use crate::process::Relay;

const TAIL: u64 = 16;
const RECOVERY_MAX: u64 = 40;

#[test]
fn a_client_that_comes_back_gets_exactly_what_it_missed_from_memory_and_from_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (tail, recovery) = (TAIL.to_string(), RECOVERY_MAX.to_string());
    let relay = Relay::on(dir.path(), &["--tail-messages-max", &tail, "--recovery-messages-max", &recovery]);
    let mut publisher = Client::native(relay.address, "publisher");
    let mut head = publisher.say("r", "line 1").0;
    for missed in [0, 1, TAIL - 1, TAIL, TAIL + 1, RECOVERY_MAX] {
        let mut member = Client::native(relay.address, "member");
        let before = member.join("r", Start::Recent(0));
        assert_eq!(before.head, head);
        publisher.say("r", &format!("line {}", head + 1));
        assert_eq!(member.lines(1)[0].seq, head + 1);
        let last = head + 1;
        drop(member);
        head += 1 + missed;
        for seq in last + 1..=head {
            publisher.say("r", &format!("line {seq}"));
        }

        let mut member = Client::native(relay.address, "member");
        let joined = member.join("r", Start::Since { seq: last, epoch: Some(before.epoch) });
        assert!(joined.recovering && joined.recovered);
        assert_eq!((joined.from, joined.epoch), (last, before.epoch));
        head += 1;
        publisher.say("r", &format!("line {head}"));
        let lines = member.lines((head - last) as usize);
        for (line, seq) in lines.iter().zip(last + 1..) {
            assert_eq!((line.seq, line.text()), (seq, &*format!("line {seq}")));
        }
    }
}

#[test]
fn what_cannot_be_recovered_is_said_so_and_the_member_goes_on_at_the_head() {
    let relay = Relay::in_memory(&["--recovery-messages-max", "10"]);
    let mut publisher = Client::native(relay.address, "publisher");
    for _ in 0..20 {
        publisher.say("r", "x");
    }
    let epoch = publisher.join("r", Start::Recent(0)).epoch;
    for (seq, epoch, why) in [
        (9, Some(epoch), "11 behind"),
        (15, Some(epoch ^ 1), "another epoch"),
        (21, Some(epoch), "more than there is"),
        (u64::MAX, None, "far more than there is"),
    ] {
        let mut member = Client::native(relay.address, "member");
        let joined = member.join("r", Start::Since { seq, epoch });
        assert!(joined.recovering && !joined.recovered, "{why}");
        assert_eq!((joined.from, joined.head), (20, 20), "{why}");
        assert_eq!(member.history("r", Page::Newest, 1)[0].seq, 20);
    }
    let mut member = Client::native(relay.address, "member");
    assert!(member.join("r", Start::Since { seq: 10, epoch: None }).recovered, "an epoch is not required");
    assert_eq!(member.lines(10)[0].seq, 11);
}
