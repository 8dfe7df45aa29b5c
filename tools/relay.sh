# Sourced by scripts that need a running relay: start_relay sets relay_pid and relay_address, stop_relay ends it.

# start_relay LOG BINARY ARGUMENTS…: starts it with its output in LOG and returns once it listens.
start_relay() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    relay_pid=$!
    for _ in {1..300}; do
        relay_address=$(sed -n 's/.*listening on \([^ ]*:[0-9]*\).*/\1/p' "$log" | head -n 1)
        [ -z "$relay_address" ] || return 0
        kill -0 "$relay_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "the relay did not start; its output was:" >&2
    cat "$log" >&2
    return 1
}

# Ends it with SIGTERM and returns its exit code; one that has not ended after a minute is killed.
stop_relay() {
    [ -n "${relay_pid:-}" ] || return 0
    local pid=$relay_pid code=0
    relay_pid=
    kill -TERM "$pid" 2>/dev/null || true
    for _ in {1..600}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" || code=$?
    return "$code"
}
