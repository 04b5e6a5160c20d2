#!/bin/sh
# What launchd starts: the version that the link names, or the one before where the new one used up its tries.
# The link is resolved once, so that no process ever sees half of one version and half of the next.
# usage: run.sh DATA
set -eu
here=$(cd -P "$(dirname "$0")" && pwd -P)
data=$1
# launchd appends to it what is said before the app's own log is open; a job that fails to start must not fill the disk.
early=$data/logs/launchd.log
if [ -f "$early" ] && [ "$(wc -c <"$early")" -gt 1048576 ]; then : >"$early"; fi

# Not confirmed: the installer was cut off before the version had answered. Three starts, then the one before serves.
# A start that cannot be counted counts as one too many.
if [ ! -f "$here/confirmed" ] && [ -f "$here/before" ]; then
  before=${here%/*}/$(cat "$here/before")
  whose='' count=0
  if [ -f "$data/run/tries" ]; then
    if read -r whose count <"$data/run/tries"; then [ "$whose" = "${here##*/}" ] || count=0; else count=3; fi # torn
  fi
  case $count in [012]) ;; *) count=3 ;; esac
  if [ -f "$before/confirmed" ]; then
    if [ "$count" = 3 ] || ! (printf '%s %s\n' "${here##*/}" $((count + 1)) >"$data/run/tries" && sync) 2>/dev/null; then
      echo "surefoot: ${here##*/} was never confirmed; starting ${before##*/}" >&2
      here=$before
    fi
  fi
fi
printf '%s %s\n' "$$" "${here##*/}" >"$data/run/started" || true # install.sh compares it
exec "$here/venv/bin/python" -I -m surefoot --config "$data/surefoot.toml" serve --log "$data/logs/serve.log"
