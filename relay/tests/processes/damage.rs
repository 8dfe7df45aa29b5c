//! A store that lost something it had acked.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::Start;

use crate::client::Client;
use crate::process::{Relay, refusal, serve};

const WRITTEN: u64 = 200;

#[test]
fn a_damaged_journal_is_refused_with_what_is_missing_and_accepted_under_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let mut client = Client::native(relay.address, "u");
    for seq in 1..=WRITTEN {
        assert_eq!(client.say("r", &format!("line {seq}")).0, seq);
    }
    let before = client.join("r", Start::Recent(0));
    relay.kill();
    zero_512_bytes_in_the_middle(&journal(dir.path()));

    let store = ["--data", dir.path().to_str().unwrap()];
    let exit = refusal(&mut serve(&store, &[]));
    assert_eq!((exit.code, exit.said.len()), (Some(1), 1), "{exit:?}");
    let line = &exit.said[0];
    let range = line.split_once("messages ").and_then(|(_, rest)| rest.split_once(' ')).unwrap().0;
    let (from, to) = range.split_once("..=").unwrap();
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    assert!(from > 1 && from < WRITTEN && to == WRITTEN, "{line}");
    assert!(line.contains("\"r\"") && line.contains("--accept-loss") && line.contains(store[1]), "{line}");

    let relay = Relay::on(dir.path(), &["--accept-loss"]);
    let mut client = Client::native(relay.address, "u");
    let (epoch, lines) = client.whole_history("r");
    assert_eq!(lines.len() as u64, from - 1, "exactly the range that was named is missing");
    assert!(lines.iter().all(|line| line.text() == format!("line {}", line.seq)));
    assert_ne!(epoch, before.epoch);
    for seq in [WRITTEN, from - 1] {
        let mut returning = Client::native(relay.address, "u");
        let joined = returning.join("r", Start::Since { seq, epoch: Some(before.epoch) });
        assert!(joined.recovering && !joined.recovered, "a cursor of the old epoch at {seq}");
        assert_eq!((joined.epoch, joined.from), (epoch, from - 1));
    }
    assert_eq!(client.say("r", "goes on").0, from);
    client.leave();
    assert_eq!(relay.stop().code, Some(0));

    let relay = Relay::on(dir.path(), &[]);
    assert_eq!(Client::native(relay.address, "u").whole_history("r").0, epoch, "the loss was accepted once");
}

fn journal(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("tree")).unwrap().map(|entry| entry.unwrap().path());
    let journals: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect();
    let [journal] = &journals[..] else { panic!("{journals:?}") };
    journal.clone()
}

fn zero_512_bytes_in_the_middle(journal: &Path) {
    let bytes = std::fs::read(journal).unwrap();
    // The journal is longer than what is in it, zeros follow.
    let middle = bytes.iter().rposition(|&byte| byte != 0).unwrap() / 2;
    OpenOptions::new().write(true).open(journal).unwrap().write_all_at(&[0; 512], middle as u64).unwrap();
}
