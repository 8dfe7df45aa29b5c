# Everything there is to run. `./just` lists it; `./just --show NAME` prints what a recipe does.

set positional-arguments

autobahn_ci := "1 2 3 4 5 6 7 10"
autobahn_all := "1 2 3 4 5 6 7 9 10"

# This list
default:
    @'{{ just_executable() }}' --justfile '{{ justfile() }}' --list --unsorted

# loadgen's defaults: 70,000 users in 1,000 rooms (Zipf 1.0), one message a minute each, for 60 s; result in bench-results/runs
demo *flags:
    @tools/demo demo --clamp "$@"

# The demo with the same users in 1,000 rooms of equal size
demo-equal *flags:
    @tools/demo demo-equal --clamp --distribution uniform "$@"

# Every check there is: lint, unit, property and simulation tests, real processes, conformance
test: lint && conformance centrifuge
    @tools/need strace
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

# RFC 6455 by the Autobahn suite, the 247 cases of CI
conformance: _relay
    @conformance/autobahn/run target/debug/relay {{ autobahn_ci }}

# RFC 6455 by the Autobahn suite, with its large messages too: 301 cases
conformance-full: _relay
    @conformance/autobahn/run target/debug/relay {{ autobahn_all }}

# The public Centrifuge SDK and clients by hand against the relay
centrifuge: _relay
    @conformance/centrifuge/run target/debug/relay

_toolchain:
    @tools/need cargo cc git

_relay: _toolchain
    cargo build --workspace --bins --locked
