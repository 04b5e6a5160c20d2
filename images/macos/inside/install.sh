#!/bin/sh
# Installs Surefoot beside what is there, proves it, switches by one rename, and returns if it does not answer.
# Works without a network. NOT VERIFIED ON A MAC: its logic is tested on Linux, with launchctl recorded.
# shellcheck disable=SC2154 # bundle_* come from bundle.conf, which the builder writes
set -eu
umask 022
here=$(cd -P "$(dirname "$0")" && pwd -P)
# shellcheck source=images/macos/inside/common.sh
. "$here/common.sh"
# shellcheck source=/dev/null # written by the builder
. "$here/bundle.conf"

usage() {
  cat <<'TEXT'
usage: sh install.sh [options]
  --user            for this user alone: a LaunchAgent, no root
  --run-as USER     whom the daemon runs as (default: who called sudo; never root)
  --python PATH     the interpreter (default: the bundle's own, else found in the usual places)
  --root DIR        where the app goes (default: /opt/surefoot, or with --user ~/Library/Application Support/Surefoot/app)
  --data DIR        where models and configuration are (default: /Library/Application Support/Surefoot, or .../data)
  --launchd DIR     where the job is placed (default: /Library/LaunchDaemons, or with --user ~/Library/LaunchAgents)
  --wait SECONDS    how long the app may take to answer (default: 60)
  --rollback        return to the version before
  --dry-run         check everything, change nothing, say what would be done
TEXT
}

python='' run_as='' wait_s=60 rollback=''
needs_value() { [ $# -gt 1 ] || fail "$1 needs a value" "see --help"; }
while [ $# -gt 0 ]; do
  case $1 in
    --user) for_user=yes ;;
    --dry-run) dry_run=yes ;;
    --rollback) rollback=yes ;;
    --run-as) needs_value "$@"; run_as=$2; shift ;;
    --python) needs_value "$@"; python=$2; shift ;;
    --root) needs_value "$@"; root_named=$2; shift ;;
    --data) needs_value "$@"; data_named=$2; shift ;;
    --launchd) needs_value "$@"; launchd_named=$2; shift ;;
    --wait) needs_value "$@"; wait_s=$2; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done
case $wait_s in '' | *[!0-9]*) fail "--wait takes whole seconds" "found: $wait_s" ;; esac

# -- preflight: changes nothing -------------------------------------------------------------------------------------

at_least() { # at_least FOUND LEAST, both MAJOR.MINOR...
  found_minor=${1#*.} least_minor=${2#*.}
  [ "$found_minor" != "$1" ] || found_minor=0
  found_major=${1%%.*} found_minor=${found_minor%%.*} least_major=${2%%.*} least_minor=${least_minor%%.*}
  [ "$found_major" -gt "$least_major" ] || { [ "$found_major" = "$least_major" ] && [ "$found_minor" -ge "$least_minor" ]; }
}

preflight_machine() {
  found=$(uname -s)
  [ "$found" = "$bundle_system" ] || fail "this bundle is for another system" "found: $found" "expected: $bundle_system"
  found=$(uname -m)
  if [ "$found" != "$bundle_machine" ]; then
    hint="take the bundle for $found"
    if [ "$(sysctl -n hw.optional.arm64 2>/dev/null || true)" = 1 ]; then
      hint="this shell runs under Rosetta: arch -arm64 sh $0"
    elif [ "$bundle_system" = Darwin ]; then
      hint="there is no bundle for Intel Macs"
    fi
    fail "this bundle is for another processor" "found: $found" "expected: $bundle_machine" "$hint"
  fi
  [ -n "$bundle_least_macos" ] || return 0
  found=$(sw_vers -productVersion) || fail "cannot tell the version of macOS" "expected: sw_vers -productVersion answers"
  case $found in '' | [!0-9]* | *[!0-9.]*) fail "cannot tell the version of macOS" "found: $found" ;; esac
  at_least "$found" "$bundle_least_macos" ||
    fail "this macOS is too old for the bundle's wheels" "found: $found" "expected: $bundle_least_macos or newer"
}

preflight_files() {
  sum="shasum -a 256"
  command -v shasum >/dev/null || sum=sha256sum
  damaged=$(cd "$here" && $sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$') || true
  [ -z "$damaged" ] || fail "the bundle is damaged" "$damaged" "fetch and unpack it again"
  (cd "$here" && $sum -c SHA256SUMS) >/dev/null 2>&1 || fail "the bundle is damaged" "SHA256SUMS cannot be read" "fetch and unpack it again"
}

preflight_room() {
  folder=$root
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  free_kb=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -ge "$bundle_needed_kb" ] ||
    fail "too little room at $folder" "found: $free_kb KiB free" "expected: $bundle_needed_kb KiB"
}

is_usable() { # is_usable PYTHON: prints nothing and succeeds, or says why not
  seen=$("$1" -I -c 'import ensurepip, fcntl, platform, ssl, sys, venv
print("%d.%d" % sys.version_info[:2], sys.implementation.name, platform.machine())' 2>&1) || {
    printf '%s does not run, or lacks venv or ssl: %s\n' "$1" "$(printf '%s' "$seen" | tail -n 1)"
    return 1
  }
  [ "$seen" = "$bundle_python_version cpython $bundle_machine" ] || {
    printf '%s is Python %s\n' "$1" "$seen"
    return 1
  }
}

find_python() {
  expected="expected: Python $bundle_python_version cpython $bundle_machine"
  if [ -n "$python" ]; then
    why=$(is_usable "$python") || fail "--python names no interpreter that this bundle can use" "found: $why" "$expected"
    return
  fi
  if [ -n "$bundle_interpreter" ]; then return; fi # unpacked by take_interpreter
  reasons=''
  for each in "$(command -v "python$bundle_python_version" || true)" \
    "/Library/Frameworks/Python.framework/Versions/$bundle_python_version/bin/python$bundle_python_version" \
    "/opt/homebrew/opt/python@$bundle_python_version/bin/python$bundle_python_version" \
    "/usr/local/bin/python$bundle_python_version"; do
    [ -n "$each" ] && [ -x "$each" ] || continue
    if why=$(is_usable "$each"); then
      python=$each
      return
    fi
    reasons="$reasons$why; "
  done
  fail "no interpreter for this bundle" "found: ${reasons:-none}" "$expected" \
    "install it from python.org, name it by --python, or take a bundle that carries one"
}

preflight_user() {
  [ -z "$for_user" ] || return 0
  run_as=${run_as:-${SUDO_USER:-}}
  case $run_as in
    '' | root) fail "the daemon needs a user who is not root" "found: ${run_as:-none}" "name one by --run-as" ;;
    *[!A-Za-z0-9._-]*) fail "--run-as is no user's name" "found: $run_as" ;;
  esac
  id -u "$run_as" >/dev/null 2>&1 || fail "no user $run_as here" "name another by --run-as"
}

# -- install --------------------------------------------------------------------------------------------------------

# The bundle's own interpreter, its checksum already compared. One copy for all versions that carry the same.
take_interpreter() {
  [ -z "$python" ] || return 0
  key=$(cd "$here" && grep "  $bundle_interpreter\$" SHA256SUMS | cut -c 1-16)
  home=$root/pythons/$key
  python=$home/python/bin/python$bundle_python_version
  if [ ! -d "$home" ]; then
    part=$root/pythons/.part.$$
    mkdir -p "$part" # the lock needs an interpreter: this is the one step before it
    tar -xzf "$here/$bundle_interpreter" -C "$part" || fail "cannot unpack the interpreter" "$bundle_interpreter"
    sync
    mv "$part" "$home"
  fi
  why=$(is_usable "$python") || fail "the bundle's own interpreter does not run here" "found: $why"
}

build_version() {
  if [ -f "$new/complete" ]; then
    if "$new/venv/bin/python" -I -m surefoot --version >/dev/null; then return; fi
    [ "$(current)" != "$bundle_id" ] ||
      fail "version $bundle_id is there and does not run" "return by --rollback, or uninstall (the data stays) and install again"
  fi
  rm -rf "$new" # never finished, or damaged: the link does not name it
  mkdir -p "$new"
  "$python" -I -m venv "$new/venv" || fail "cannot make an environment with $python"
  "$new/venv/bin/python" -I -m pip --isolated --disable-pip-version-check install --quiet --no-index --no-cache-dir \
    --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.lock" 9>&- ||
    fail "pip could not install the bundle's wheels" "what was installed before is unchanged"
  "$new/venv/bin/python" -I -m pip --isolated --disable-pip-version-check check >/dev/null || fail "the wheels do not fit each other"
  for each in install.sh uninstall.sh common.sh run.sh place.py job.plist bundle.conf; do cp "$here/$each" "$new/"; done
  prove "$bundle_id"
  place "$bundle_id" complete "$new"
}

# It starts, and it takes the configuration that is there.
prove() {
  "$root/versions/$1/venv/bin/python" -I -m surefoot --version >/dev/null || fail "version $1 does not start" "nothing was switched"
  [ ! -f "$config" ] || "$root/versions/$1/venv/bin/python" -I -m surefoot config check "$config" >/dev/null ||
    fail "version $1 does not take the configuration" "$config" "nothing was switched"
}

# Only where there is none: what lies in a folder of the daemon's user is nothing that root may follow.
make_data() {
  [ ! -e "$config" ] || return 0
  [ ! -e "$data" ] || [ -n "$for_user" ] || fail "there is a folder without a surefoot.toml" "found: $data" "name another by --data, or remove it"
  mkdir -p "$data/logs" "$data/run"
  printf 'data_dir = "."\nrun_dir = "run"\n' >"$config.part"
  mv "$config.part" "$config"
  if [ -z "$for_user" ]; then chown "$run_as" "$data" "$data/logs" "$data/run"; fi
}

# Where this installation is; its own install.sh and uninstall.sh read it.
place_conf() {
  printf "for_user='%s'\nroot='%s'\ndata='%s'\nlaunchd='%s'\nrun_as='%s'\n" "$for_user" "$root" "$data" "$launchd" "$run_as"
}

# place VERSION COMMAND...: what a shell cannot do durably, done by that version's own Python.
place() {
  of=$root/versions/$1
  shift
  "$of/venv/bin/python" -I "$of/place.py" "$@"
}

# restart VERSION, which the link names by now. Fails where it does not answer.
restart() {
  rm -f "$data/run/tries"
  place "$1" job "$root/versions/$1/job.plist" "$plist" "label=$label" "root=$root" "data=$data" "user=$run_as" || return 1
  stop_job || { say "the job did not stop in 60 s"; return 1; }
  start_job || { say "launchd did not take the job"; return 1; }
  answers "$1" || { say "version $1 did not answer in $wait_s s"; return 1; }
  place "$1" confirm "$root/versions/$1"
}

# answers VERSION: the server answers, and it is that version which launchd started (run.sh notes process and version).
answers() {
  tries=$wait_s
  while :; do
    pid=$("$root/versions/$1/venv/bin/python" -I -m surefoot --config "$config" status --json 2>/dev/null 9>&- |
      sed -n 's/.*"pid": *\([0-9][0-9]*\).*/\1/p' | head -n 1)
    if [ -n "$pid" ] && [ "$(cat "$data/run/started" 2>/dev/null)" = "$pid $1" ]; then return 0; fi
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep 1
  done
}

# Switch by one rename, and return to the last version that answered if this one does not.
change_to() {
  trap '' HUP INT TERM # from here on it ends by itself, one way or the other
  place "$1" switch "$root" "$1" || fail "cannot switch to $1" "what ran before runs on"
  if restart "$1"; then return; fi
  back=$(before "$1")
  [ -n "$back" ] && [ -f "$root/versions/$back/confirmed" ] ||
    fail "version $1 does not answer, and there is none to return to" "see $data/logs" "uninstall.sh removes the job"
  if place "$back" switch "$root" "$back" && restart "$back"; then
    fail "version $1 does not answer" "returned to $back, which does" "see $data/logs"
  fi
  fail "version $1 does not answer, and $back does not answer again" "see $data/logs"
}

# What stays: the version that runs, the one before, and the interpreters of both.
prune() {
  keep=$(current)
  keep_before=$(before "$keep")
  for each in "$root"/versions/*; do
    case ${each##*/} in "$keep" | "$keep_before") ;; *) rm -rf "$each" ;; esac
  done
  for each in "$root"/pythons/*; do
    grep -qF "$each/" "$root"/versions/*/venv/pyvenv.cfg || rm -rf "$each"
  done
}

places
if [ -n "$rollback" ]; then
  now=$(current)
  target=$(before "$now")
  [ -n "$target" ] && [ -f "$root/versions/$target/confirmed" ] ||
    fail "there is no version to return to" "found: ${now:-nothing} installed in $root"
  if [ -n "$dry_run" ]; then
    say "would return from $now to $target"
    exit 0
  fi
  may_change
  lock "$root/versions/$target/venv/bin/python"
  prove "$target"
  change_to "$target"
  say "returned to $target; $now is kept: --rollback again takes it back"
  exit 0
fi

[ -f "$here/SHA256SUMS" ] || fail "this is an installation, not a bundle" "install from an unpacked bundle; here only --rollback works"
preflight_machine
preflight_files
preflight_room
find_python
if [ -z "$dry_run" ]; then
  may_change
  preflight_user
fi
if [ -n "$dry_run" ]; then
  if [ -f "$root/install.lock" ] && [ -n "$python" ]; then lock "$python"; fi
  say "would install $bundle_id with ${python:-$bundle_interpreter} in $root, data in $data, job $plist in $domain"
  say "would replace: $(current | grep . || echo nothing)"
  exit 0
fi
mkdir -p "$root/versions" "$launchd"
take_interpreter
lock "$python"
rm -rf "$root"/pythons/.part.*
new=$root/versions/$bundle_id
if [ "$(current)" = "$bundle_id" ] && [ -f "$new/confirmed" ] && [ "$(place_conf)" = "$(cat "$new/place.conf")" ] &&
  job_is_loaded && (wait_s=1 && answers "$bundle_id"); then
  say "$bundle_id is installed and answers; nothing to change"
  exit 0
fi
make_data
build_version
place_conf >"$new/place.conf"
change_to "$bundle_id"
prune
back=$(before "$bundle_id")
[ -n "$back" ] && [ -f "$root/versions/$back/confirmed" ] || back=none
say "$bundle_id answers; to return to: $back"
say "uninstall: sh '$root/current/uninstall.sh'   return: sh '$root/current/install.sh' --rollback"
