//! History has no seam between what is in memory and what is stored.

use protocol::{Page, Start};

use crate::client::Client;
use crate::event::Line;
use crate::process::Relay;

const WRITTEN: u64 = 60;
const TAIL: &str = "16";

#[test]
fn pages_cross_the_border_between_storage_and_memory_without_a_seam() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--tail-messages-max", TAIL, "--history-messages-max", "40"];
    let relay = Relay::on(dir.path(), &flags);
    let mut client = Client::native(relay.address, "u");
    let tags: Vec<_> = (1..=WRITTEN).map(|seq| client.publish("r", &format!("line {seq}"), None)).collect();
    for (tag, seq) in tags.into_iter().zip(1..) {
        assert_eq!(client.reply(tag).acked().0, seq);
    }
    assert_pages(&mut client);
    let joined = client.join("r", Start::Recent(30));
    assert_eq!((joined.from, joined.head), (WRITTEN - 30, WRITTEN));
    assert_eq!(seqs(&client.lines(30)), (31..=60).collect::<Vec<_>>());
    client.leave();
    assert_eq!(relay.stop().code, Some(0));

    let relay = Relay::on(dir.path(), &flags);
    assert_pages(&mut Client::native(relay.address, "u"));
}

fn seqs(lines: &[Line]) -> Vec<u64> {
    lines.iter().map(|line| line.seq).collect()
}

fn assert_pages(client: &mut Client) {
    for (page, limit, first, last) in [
        (Page::Newest, 5, 56, 60),
        (Page::Newest, 30, 31, 60),
        (Page::Newest, 1000, 21, 60),
        (Page::Before(50), 10, 40, 49),
        (Page::Before(46), 4, 42, 45),
        (Page::Before(3), 10, 1, 2),
        (Page::After(0), 10, 1, 10),
        (Page::After(40), 10, 41, 50),
        (Page::After(44), 1000, 45, 60),
        (Page::After(0), 1000, 1, 40),
        (Page::Around(45), 10, 40, 49),
        (Page::Around(1), 4, 1, 4),
        (Page::Around(59), 10, 54, 60),
    ] {
        let lines = client.history("r", page, limit);
        assert_eq!(seqs(&lines), (first..=last).collect::<Vec<_>>(), "{page:?}, limit {limit}");
        assert!(lines.iter().all(|line| line.text() == format!("line {}", line.seq)), "{page:?}");
    }
    for (page, limit) in [(Page::After(WRITTEN), 10), (Page::Before(1), 10), (Page::Newest, 0)] {
        assert_eq!(client.history("r", page, limit), [], "{page:?}");
    }
    assert_eq!(client.history("nobody was here", Page::Newest, 10), []);
}
