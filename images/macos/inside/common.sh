#!/bin/sh
# What the installer and the uninstaller share. Read by them, never run. Only what macOS has: POSIX sh, BSD tools.
# shellcheck disable=SC2034,SC2154 # set here and used by the scripts that read this file, or the other way round

label=io.surefoot.app
data_named='' root_named='' launchd_named='' for_user='' dry_run=''

say() { printf 'surefoot: %s\n' "$*"; }

# fail WHAT [FOUND, EXPECTED, WHAT TO DO ...]
fail() {
  printf 'surefoot: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# Where things are: as the options say, as an installation says of itself, or the usual places.
places() {
  if [ -f "$here/place.conf" ]; then
    # shellcheck source=/dev/null # written by install.sh
    . "$here/place.conf"
  fi
  if [ -n "$for_user" ]; then
    base="$HOME/Library/Application Support/Surefoot"
    root=${root_named:-${root:-$base/app}}
    data=${data_named:-${data:-$base/data}}
    launchd=${launchd_named:-${launchd:-$HOME/Library/LaunchAgents}}
    domain=gui/$(id -u)
  else
    root=${root_named:-${root:-/opt/surefoot}}
    data=${data_named:-${data:-/Library/Application Support/Surefoot}}
    launchd=${launchd_named:-${launchd:-/Library/LaunchDaemons}}
    domain=system
  fi
  for place in "$root" "$data" "$launchd"; do
    case $place in
      *[\'\"\`\$\\]* | *'
'*) fail "a place has a character that is not taken here" "found: $place" "name another by --root, --data, --launchd" ;;
      / | /Library | /opt | /usr | /Users | "$HOME" | */.. | */../* | */) fail "will not use $place" "name a folder of its own" ;;
      /*) ;;
      *) fail "a place must be a whole path" "found: $place" ;;
    esac
  done
  case $data/ in "$root"/*) fail "the data must not lie in the app's folder" "found: $data in $root" ;; esac
  case $root/ in "$data"/*) fail "the app must not lie in the data's folder" "found: $root in $data" ;; esac
  plist=$launchd/$label.plist
  config=$data/surefoot.toml
}

may_change() {
  if [ -z "$for_user" ] && [ "$(id -u)" != 0 ]; then
    fail "a launchd daemon is placed by root" "run: sudo sh $0" "or, for this user alone: sh $0 --user"
  fi
  if [ -n "$for_user" ] && [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ]; then
    fail "--user is for the user who runs it" "found: sudo" "run it without sudo"
  fi
}

# The version that a link or a record names; empty if none.
current() {
  if [ -L "$root/current" ]; then basename "$(readlink "$root/current")"; fi
}
before() {
  if [ -n "$1" ] && [ -f "$root/versions/$1/before" ]; then cat "$root/versions/$1/before"; fi
}

# An open descriptor carries the lock; it goes with this process, whatever ends it. The file means nothing.
lock() {
  (: >>"$root/install.lock") 2>/dev/null || fail "cannot write in $root" "run as the user who owns it"
  exec 9>>"$root/install.lock"
  "$1" "$here/place.py" lock 9 2>/dev/null || fail "another install or uninstall is running" "lock: $root/install.lock" "wait for its end"
}

job_is_loaded() { launchctl print "$domain/$label" >/dev/null 2>&1; }

stop_job() {
  job_is_loaded || return 0
  launchctl bootout "$domain/$label" 9>&- || true # what counts is whether it is gone
  tries=60
  while job_is_loaded; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep 1
  done
}

start_job() {
  launchctl enable "$domain/$label" 9>&- && launchctl bootstrap "$domain" "$plist" 9>&-
}
