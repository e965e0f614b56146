# Shared by all network functions here: wait for the interfaces, start, log it, and leave on SIGTERM.
# A function sets `interfaces`, defines `start` and `is_ready` (and `work`, if it does more than wait), and calls
# `main "$@"`. With the argument `ready` the same script is the readiness probe.

log() {
  echo "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ) $1"
}

# A shell runs a trap only after the running command, but at once during `wait`. So every pause is a child process.
pause() {
  sleep "$1" &
  pausing=$!
  wait "$pausing"
}

leave() {
  log "SIGTERM received"
  [ -z "${pausing:-}" ] || kill "$pausing" 2>/dev/null || :
  exit 0
}

has_interfaces() {
  for interface in $interfaces; do
    [ -e "/sys/class/net/$interface" ] || return 1
  done
}

work() {
  log "ready"
  while :; do pause 3600; done
}

# A Deployment without the labels of a chain has no data interfaces. Its pods wait here, not ready, until the labels are
# set and new pods replace them. A pod of a chain has its interfaces before its container starts.
run() {
  trap leave TERM INT
  has_interfaces || log "waiting for interfaces: $interfaces (is the workload labelled sfc.dev/chain and sfc.dev/stage?)"
  until has_interfaces; do pause 1; done
  start
  work
}

# Waits up to two seconds before it fails, so that the first probe already succeeds. The pod is ready as soon as the
# function is, although the probe, which starts a process each time, runs rarely.
await_ready() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if has_interfaces && is_ready; then return 0; fi
    sleep 0.1
  done
  return 1
}

main() {
  case ${1:-run} in
    run) run ;;
    ready) await_ready ;;
    *) echo "usage: $0 [ready]" >&2; exit 2 ;;
  esac
}
