# What every network function here does: wait for its interfaces, start, say so, and leave when told.
# A function sets `interfaces`, defines `start` and `is_ready` (and `work`, if it does more than wait), and calls
# `main "$@"`. Called with the argument `ready` it is its own readiness probe.

log() {
  echo "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ) $1"
}

# A shell runs its traps between commands, and at once only in `wait`: so every pause is a child.
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

# A Deployment that no chain names yet has no data interfaces: its pods wait here, not ready, until labelling replaces
# them. Where a chain does name it, the interfaces are there before the container starts.
run() {
  trap leave TERM INT
  has_interfaces || log "waiting for interfaces: $interfaces (is the workload labelled sfc.dev/chain and sfc.dev/stage?)"
  until has_interfaces; do pause 1; done
  start
  work
}

# Waits a little rather than fail, so that the first probe already succeeds: a pod is ready as soon as its function is,
# and the probe, which costs a process in the container each time, need not be frequent.
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
