//! Servers that misbehave towards slow readers and towards users that come back.

use clap::Parser;
use loadgen::cli::{Cli, Command};
use loadgen::plan::{Plan, Role};

use crate::fake::Fault;
use crate::load::{SCENARIO, run_with};

/// A third of the 30 users read slowly, but fast enough to keep up.
const SLOW: &str = "--slow-readers 33% --slow-rate 200KB/s";
/// Half of the users drop out in the middle and come back one after another, over most of a second.
const STORM: &str = "--reconnect-storm 50%@500ms --reconnect-ramp 20";

/// One of the slow readers that these flags make.
fn slow_reader(flags: &str) -> u32 {
    let args = ["loadgen", "run"].into_iter().chain(SCENARIO.iter().copied()).chain(flags.split(' '));
    let Command::Run(args) = Cli::parse_from(args).command;
    let plan = Plan::new(args.shape());
    (0..args.users).find(|&user| plan.role_of(user) == Role::Slow).expect("some read slowly")
}

#[test]
fn slow_readers_of_a_faultless_server_get_everything_that_they_read() {
    let (_server, result) = run_with(Fault::None, SLOW);
    result.assert_clean();
    assert_eq!((result.count("slow", "slow"), result.count("gaps", "announced")), (10, 0));
    let sent = result.count("messages", "sent");
    assert_eq!(result.count("deliveries", "received") + result.count("slow", "unread"), sent * 30, "{}", result.text);
}

#[test]
fn stalled_readers_that_read_on_at_the_end_have_missed_nothing_unannounced() {
    let (_server, result) = run_with(Fault::None, "--stalled-readers 10%");
    result.assert_clean();
    assert_eq!((result.count("slow", "stalled"), result.count("slow", "unread")), (3, 0));
    assert_eq!(result.count("deliveries", "received"), result.count("messages", "sent") * 30, "{}", result.text);
}

#[test]
fn a_message_that_a_slow_reader_silently_does_not_get_is_lost() {
    let (server, result) = run_with(Fault::SkipFor(300, slow_reader(SLOW)), SLOW);
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[("lost", 1)], &[]);
    assert_eq!(result.failed(), ["loss"]);
}

#[test]
fn an_announced_gap_of_a_slow_reader_is_fetched_from_the_history_and_no_fault() {
    let (server, result) = run_with(Fault::GapFor(300, slow_reader(SLOW)), SLOW);
    assert_eq!(server.injected(), 5, "{}", result.text);
    result.assert_clean();
    assert_eq!((result.count("slow", "gaps"), result.count("slow", "skipped")), (1, 5));
    assert_eq!((result.count("gaps", "messages"), result.count("gaps", "missing")), (5, 0));
}

#[test]
fn an_announced_gap_that_the_history_does_not_fill_is_caught() {
    let (server, result) = run_with(Fault::LostGapFor(300, slow_reader(SLOW)), SLOW);
    assert_eq!(server.injected(), 5, "{}", result.text);
    assert_eq!((result.count("gaps", "unfilled"), result.count("gaps", "missing")), (1, 1));
    assert_eq!((result.failed(), result.code), (vec!["gaps"], 1), "{}", result.text);
}

#[test]
fn a_gap_for_a_reader_that_is_not_slow_is_a_loss_although_the_history_fills_it() {
    let healthy = (0..30).find(|&user| user != slow_reader("--slow-readers 1%")).expect("only one reads slowly");
    let (server, result) = run_with(Fault::GapFor(300, healthy), "--slow-readers 1% --slow-rate 200KB/s");
    assert_eq!(server.injected(), 5, "{}", result.text);
    result.assert_caught(&[("skipped", 5)], &[]);
    assert_eq!((result.failed(), result.count("gaps", "missing")), (vec!["loss"], 0));
}

#[test]
fn a_slow_reader_that_is_closed_with_the_named_reason_is_counted_and_no_fault() {
    let (server, result) = run_with(Fault::CloseAsSlow(300, slow_reader(SLOW)), SLOW);
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_clean();
    assert_eq!(result.count("slow", "closed"), 1);
    assert!(result.count("slow", "unsent") > 0, "{}", result.text);
}

#[test]
fn users_that_drop_out_come_back_with_everything() {
    let (_server, result) = run_with(Fault::None, STORM);
    result.assert_clean();
    assert_eq!((result.count("counts", "dropped_out"), result.count("counts", "caught_up")), (15, 15));
    assert!(result.count("counts", "sent_late") > 0, "{}", result.text);
    assert_eq!(result.count("messages", "acked"), result.count("messages", "sent"));
    assert_eq!(result.count("deliveries", "received"), result.count("messages", "sent") * 30, "{}", result.text);
    for series in ["delivery", "delivery_storm", "delivery_after", "resume"] {
        assert!(result.nanoseconds(series, "max_ns") > 0, "{series}: {}", result.text);
    }
}

#[test]
fn a_user_that_comes_back_without_one_message_is_caught() {
    let (server, result) = run_with(Fault::ResumeWithout, STORM);
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[("lost", 1)], &[]);
}

#[test]
fn a_user_that_gets_a_message_again_when_it_comes_back_is_caught() {
    let (server, result) = run_with(Fault::ResumeTwice, STORM);
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[("duplicated", 1)], &[]);
}

#[test]
fn a_user_that_is_not_recovered_when_it_comes_back_is_caught() {
    let (server, result) = run_with(Fault::NotRecovered, STORM);
    assert_eq!((server.injected(), result.code), (1, 1), "{}", result.text);
    assert_eq!(result.json["faults"]["came back and was not recovered"]["users"], 1);
    assert!(result.count("deliveries", "skipped") > 0 && result.failed().contains(&"loss"), "{}", result.text);
}

#[test]
fn who_joins_a_room_with_history_gets_as_many_lines_as_it_asked_for() {
    let (_server, result) = run_with(Fault::None, "--history 10 --recent 7");
    result.assert_clean();
    let chatted = result.count("messages", "sent") - 10;
    assert_eq!(result.count("counts", "backlog"), 20 * 7, "{}", result.text);
    // Ten writers get their own ten lines as they come, the twenty others the last seven when they join.
    assert_eq!(result.count("deliveries", "received"), chatted * 30 + 10 * 10 + 20 * 7, "{}", result.text);
}
