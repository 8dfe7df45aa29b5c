//! Servers that send their users away, lose them, or go.

use crate::fake::{FakeRelay, Fault};
use crate::load::{Load, Result, run, run_with};

/// Everybody lost the connection once, came back and has everything.
fn assert_all_came_back(result: &Result) {
    assert_eq!((result.count("absences", "caught_up"), result.count("absences", "gone")), (30, 0), "{}", result.text);
    let sent = result.count("messages", "sent");
    assert_eq!(result.count("messages", "acked"), sent, "{}", result.text);
    assert_eq!(result.count("deliveries", "received"), sent * 30, "{}", result.text);
    assert!(result.json["absences"]["unmeasured"].as_f64().expect("a share") > 0.0, "{}", result.text);
}

#[test]
fn users_who_are_sent_away_come_back_when_they_are_told_and_nobody_is_accused() {
    let (server, result) = run(Fault::GoAway(300));
    assert_eq!((server.injected(), result.count("absences", "announced")), (30, 30), "{}", result.text);
    result.assert_clean();
    assert_all_came_back(&result);
    assert!(result.text.contains("30 connections lost: 30 after the server's goodbye"), "{}", result.text);
    // Told to wait a tenth of a second; by itself nobody comes back before a second.
    assert!(result.nanoseconds("absence", "p50_ns") < 1_000_000_000, "{}", result.text);
}

#[test]
fn a_server_that_dies_and_is_there_again_with_everything_is_not_accused() {
    let (server, result) = run(Fault::CutAll(300));
    assert_eq!((server.injected(), result.count("absences", "with_all")), (30, 30), "{}", result.text);
    result.assert_clean();
    assert_all_came_back(&result);
}

#[test]
fn slow_readers_come_back_as_well_and_stalled_ones_are_not_waited_for() {
    let flags = "--slow-readers 20% --slow-rate 200KB/s --stalled-readers 10%";
    for fault in [Fault::GoAway(300), Fault::CutAll(300)] {
        let (server, result) = run_with(fault, flags);
        assert_eq!(server.injected(), 30, "{}", result.text);
        result.assert_clean();
        let counted = (result.count("absences", "caught_up"), result.count("absences", "gone"));
        assert_eq!(counted, (27, 0), "{fault:?}: {}", result.text);
    }
}

#[test]
fn a_connection_that_ends_alone_is_an_error_although_its_user_comes_back() {
    let (server, result) = run(Fault::CutOne(300, 17));
    assert_eq!((server.injected(), result.count("absences", "alone")), (1, 1), "{}", result.text);
    assert_eq!((result.failed(), result.code), (vec!["errors"], 1), "{}", result.text);
    assert_eq!(result.count("absences", "caught_up"), 1, "{}", result.text);
    assert_eq!(result.count("deliveries", "received"), result.count("messages", "sent") * 30, "{}", result.text);
}

#[test]
fn a_run_whose_server_has_gone_for_good_ends_early_and_claims_nothing() {
    let (_server, result) = run_with(Fault::Vanish(300), "--duration 60s --give-up 2s");
    assert_eq!(result.code, 1, "{}", result.text);
    assert_eq!(result.count("absences", "gone"), 30, "{}", result.text);
    for check in ["loss", "rate", "return"] {
        assert!(result.failed().contains(&check), "{check}: {}", result.text);
    }
    assert!(result.text.contains("PARTIAL  every connection was gone"), "{}", result.text);
    assert!(result.json["window"]["seconds"].as_f64().expect("it was measured") < 50.0, "{}", result.text);
}

#[test]
fn what_happens_to_connections_is_shown_while_it_happens() {
    let (_server, result) = run_with(Fault::Vanish(300), "--duration 60s --give-up 3s --progress plain");
    assert!(result.text.contains("30 lost connections"), "{}", result.text);
    let last = result.text.lines().rfind(|line| line.starts_with("measure")).expect("lines of the window");
    assert!(last.contains("0 users") && !last.contains("p99"), "{last}");
}

#[test]
fn a_rate_limit_is_not_called_busy_and_is_not_a_rate_that_was_taken() {
    let (server, result) = run(Fault::RateLimited);
    assert_eq!(result.count("counts", "rate_limited"), server.injected(), "{}", result.text);
    assert_eq!((result.count("counts", "busy"), result.failed(), result.code), (0, vec!["rate"], 1), "{}", result.text);
    assert!(result.text.contains("`rate limited`") && !result.text.contains("busy"), "{}", result.text);
}

#[test]
fn a_busy_server_is_called_busy_and_holds_when_it_takes_everything_in_the_end() {
    let (server, result) = run(Fault::Busy);
    result.assert_clean();
    assert_eq!((result.count("counts", "busy"), result.count("counts", "rate_limited")), (server.injected(), 0));
    assert!(result.text.contains("`busy`"), "{}", result.text);
}

#[test]
fn two_runs_at_once_and_a_third_one_later_do_not_meet_in_one_server() {
    let server = FakeRelay::start(Fault::None);
    let (one, two) = (Load::start_with(&server, &["--run-id", "one"]), Load::start_with(&server, &["--run-id", "two"]));
    for result in [one.finish(), two.finish(), Load::start_with(&server, &["--recent", "10"]).finish()] {
        result.assert_clean();
        assert_eq!(result.count("deliveries", "received"), result.count("messages", "sent") * 30, "{}", result.text);
    }
}
