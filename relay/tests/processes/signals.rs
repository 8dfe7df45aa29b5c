//! Signals other than one SIGTERM.

use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use crate::client::Client;
use crate::event::Event;
use crate::process::{Relay, end_by, serve};

#[test]
fn signals_that_mean_nothing_do_not_end_it() {
    let relay = Relay::in_memory(&[]);
    let mut ann = Client::native(relay.address, "ann");
    for (n, signal) in (1..).zip([Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM]) {
        relay.signal(signal);
        assert_eq!(ann.say("r", "still here").0, n);
    }
    let relay = relay.after(|line| line.contains("SIGHUP"));
    ann.leave();
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn two_sigterms_at_once_are_one_wish() {
    let relay = Relay::in_memory(&[]);
    let mut ann = Client::native(relay.address, "ann");
    for _ in 0..3 {
        relay.signal(Signal::TERM);
    }
    let rest = ann.rest();
    assert!(rest.iter().any(|event| matches!(event, Event::Closed { code: Some(1001), .. })), "{rest:?}");
    // What comes while it ends, though, is as good as the first.
    relay.signal(Signal::TERM);
    assert_eq!(relay.exit().code, Some(0));
}

#[test]
fn sigterm_while_the_store_is_being_opened_is_a_good_end() {
    // A database that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("--store=scylla://{}/chat", silent.local_addr().unwrap());
    let mut held = Vec::new();
    let exit = end_by(&mut serve(&[&store], &[]), || held.push(silent.accept().unwrap()), Signal::TERM);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.said.last().unwrap().contains("stopped while starting"), "{exit:?}");
}

#[test]
fn timeout_of_gnu_coreutils_ends_it_well() {
    let served = serve(&["--memory"], &[]);
    let mut timeout = Command::new("timeout");
    timeout.arg("10").arg(served.get_program()).args(served.get_args());
    let relay = Relay::start(&mut timeout);
    let mut ann = Client::native(relay.address, "ann");
    let rest = ann.rest();
    assert!(rest.iter().any(|event| matches!(event, Event::Closed { code: Some(1001), .. })), "{rest:?}");
    let exit = relay.exit();
    assert_eq!(exit.code, Some(124), "timeout's own: {exit:?}");
    assert!(exit.said.last().unwrap().starts_with("stopped; "), "{exit:?}");
}
