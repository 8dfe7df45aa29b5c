//! A process without descriptors. It has a test binary of its own, since it takes them all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use uring::{Config, Event, Ring, Wake};

const FAILURES: u32 = 5;

#[test]
fn accepting_goes_on_when_descriptors_are_back() {
    let wake = Wake::new().unwrap();
    let config = Config { sockets: 8, recv_buffers: 8, recv_buffer_bytes: 512, queue_entries: 8 };
    let mut ring = Ring::new(config, &wake).unwrap();
    let listener = uring::listener("127.0.0.1:0".parse().unwrap(), 16, false, None).unwrap();
    let address = listener.local_addr().unwrap();
    ring.listen(listener);
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    client.connect(&address.into()).unwrap();

    let start = Instant::now();
    let mut failed_after = Duration::ZERO;
    let (mut failures, mut turns, mut accepted) = (0, 0, 0);
    loop {
        wake.clear();
        turns += 1;
        ring.turn(|event| match event {
            Event::AcceptFailed(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                failures += 1;
            }
            Event::Accepted(_) => accepted += 1,
            other => panic!("{other:?}"),
        });
        if failures == FAILURES && !hoard.is_empty() {
            failed_after = start.elapsed();
            hoard.clear();
        }
        if accepted > 0 {
            break;
        }
        let left = Duration::from_secs(60).saturating_sub(start.elapsed());
        assert!(!left.is_zero(), "waited too long: {failures} failures");
        wake.wait(left);
    }
    // A timeout of 10 ms lies between two tries.
    assert!(failed_after >= Duration::from_millis(10) * (FAILURES - 1), "{FAILURES} failures in {failed_after:?}");
    // It does not spin: about two turns for each try.
    assert!(turns <= 4 * (failures + 2), "{turns} turns for {failures} failures");
}
