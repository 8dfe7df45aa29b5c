//! On a ScyllaDB node each statement goes to the shard that owns its partition.

use storage::{ScyllaStore, Store};

use crate::common::{keyspace, open_keyspace};
use crate::load::Load;
use crate::node::Node;
use crate::shim::Shim;

#[test]
fn every_statement_of_the_store_comes_over_its_partitions_shard() {
    let node = Node::shared().address();
    // Made past the shim: a ScyllaDB node knows options that this one does not.
    drop(open_keyspace(node, "sharded"));
    let shim = Shim::start(node);
    let store = ScyllaStore::open(keyspace(shim.address(), "sharded")).unwrap();
    // The driver connects to the other shards while the first requests go on.
    let is_connected = (0..100).any(|round| {
        for room in 0..20 {
            store.open_log(&format!("{round} {room}")).unwrap();
        }
        let logs = shim.routed().remove("sharded.logs").unwrap_or_default();
        logs.wrong == 0 && logs.right.iter().all(|&count| count > 0)
    });
    assert!(is_connected);
    let mut load = Load::new(&store, 200);
    let mut appends = 0;
    load.run_until(|| {
        appends += 1;
        appends >= 2_000
    });
    let acked = load.acked;
    drop(store);
    let routed = shim.routed();
    for (table, routed) in &routed {
        assert_eq!(routed.wrong, 0, "{table}: {routed:?}");
    }
    let messages = routed["sharded.messages"].right;
    assert!(messages.iter().sum::<u64>() >= acked.iter().sum(), "{messages:?}");
    assert!(messages.iter().all(|&count| count > 0), "{messages:?}");
    Load::assert_stored(&acked, &open_keyspace(node, "sharded"));
}
