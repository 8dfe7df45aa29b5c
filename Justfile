# Everything there is to run. `./just` lists it; `./just --show NAME` prints what a recipe does.

set positional-arguments

outage := "--users 72000 --rooms 1 --pairs 1000"

autobahn_ci := "1 2 3 4 5 6 7 10 12.*.1 12.*.4 12.*.7 12.*.11 12.4.18 13.*.4 13.*.11"
autobahn_all := "1 2 3 4 5 6 7 9 10 12 13"

# This list
default:
    @'{{ just_executable() }}' --justfile '{{ justfile() }}' --list --unsorted

# loadgen's defaults: 70,000 users in 1,000 rooms (Zipf 1.0), one message a minute each, for 60 s; result in bench-results/runs
demo *flags:
    @tools/demo demo --clamp "$@"

# The demo with the same users in 1,000 rooms of equal size
demo-equal *flags:
    @tools/demo demo-equal --clamp --distribution uniform "$@"

# The demo with its messages in a CQL server that runs beside it on the same cores
demo-scylla *flags:
    @tools/demo --scylla demo-scylla --clamp "$@"

# How one room's cost grows: runs with 1,000, 5,000, 20,000 and 70,000 viewers (or `./just growth 500 2000`), a table, a plot
growth *viewers:
    @tools/growth "$@"

# The load that took a platform down: one room of 70,000, and 1,000 chats of two that it must not slow down
outage *flags:
    @tools/demo outage --clamp {{ outage }} "$@"

# The outage while 1 % of the viewers read at 2 KB/s and 0.1 % stop reading; three minutes, for frames are kept for one
outage-slow *flags:
    @tools/demo outage-slow --clamp {{ outage }} --duration 180s --slow-readers 1% --stalled-readers 0.1% "$@"

# 70,000 join one room within ten seconds, each asking for the last 50 lines; in full load half of them drop out and come back
storm *flags:
    @tools/demo storm --clamp --users 70000 --rooms 1 --ramp 7000 --history 200 --recent 50 --reconnect-storm 50%@20s "$@"

# One room of so many viewers, to see how the cost grows: ./just room 5000
room users *flags:
    @users=$1; shift; tools/demo "room-$users" --users "$users" --rooms 1 "$@"

# Two versions against each other: `./just pairs main . demo`, or `./just pairs --rounds 6 --short v1 main outage --users 5000`
pairs *arguments:
    @tools/pairs "$@"

# How long lines take at rates that go up and down: rooms of 1,000, 10,000 and 70,000 and the demo's mix, medians of three, 20 minutes (or `./just sweep 10000`)
sweep *rooms:
    @tools/sweep "$@"

# What the storage engines do for publishes, alone and through a relay: `./just bench-store [embedded scylla-batch scylla-periodic] [-- FLAGS]`
bench-store *engines:
    @tools/bench-store "$@"

# What hostile clients can do to everybody else; `./just attack --list` names the attacks, NAMES chooses some of them
attack *names: _toolchain
    cargo build --release --locked -p relay -p loadgen
    cargo build --release --locked -p relay -p loadgen --example attack
    @ulimit -n "$(ulimit -Hn)" && target/release/examples/attack "$@"

# Every check there is: lint, unit, property and simulation tests, real processes, a real CQL server, conformance
test: lint && conformance centrifuge
    @tools/need strace java mvn
    cargo test --workspace --locked

# Formatting, clippy and the links of the documentation
lint: _toolchain
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked --quiet

# Replay one simulation of whole shards by the seed that a failure printed
sim seed: _toolchain
    SIM_SEED="$1" cargo test -p relay --locked --test simulation -- --nocapture --exact replay

# Run `count` simulations with seeds from `first` on
sim-many count first="1": _toolchain
    SIM_SEEDS="$1" SIM_FIRST="$2" cargo test -p relay --locked --test simulation -- simulation_holds

# A CQL server to try things on, one throw-away Cassandra node: start, stop, kill, status or clean
cql action port="9042":
    @conformance/cql/cassandra "$1" "$2"

# RFC 6455 and permessage-deflate by the Autobahn suite, the 282 cases of CI
conformance: _relay
    @set -f; conformance/autobahn/run target/debug/relay {{ autobahn_ci }}

# All 517 cases of the Autobahn suite, with large messages, plain and compressed: 20 minutes
conformance-full: _relay
    @conformance/autobahn/run target/debug/relay {{ autobahn_all }}

# The public Centrifuge SDK and clients by hand against the relay
centrifuge: _relay
    @conformance/centrifuge/run target/debug/relay

_toolchain:
    @tools/need cargo cc git

_relay: _toolchain
    cargo build --workspace --bins --locked
