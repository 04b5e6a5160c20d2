#!/bin/sh
# Removes the job and the app. Models, keys and configuration stay, unless --remove-data says otherwise.
# NOT VERIFIED ON A MAC: its logic is tested on Linux, with launchctl recorded.
set -eu
here=$(cd -P "$(dirname "$0")" && pwd -P)
# shellcheck source=images/macos/inside/common.sh
. "$here/common.sh"

remove_data=''
while [ $# -gt 0 ]; do
  case $1 in
    --user) for_user=yes ;;
    --dry-run) dry_run=yes ;;
    --remove-data) remove_data=yes ;;
    --root | --data | --launchd)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in --root) root_named=$2 ;; --data) data_named=$2 ;; --launchd) launchd_named=$2 ;; esac
      shift
      ;;
    --help | -h)
      echo "usage: sh uninstall.sh [--user] [--root DIR] [--data DIR] [--launchd DIR] [--remove-data] [--dry-run]"
      exit 0
      ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done
places
[ -d "$root/versions" ] || fail "nothing is installed in $root" "name the place by --root, or --user"
if [ -n "$remove_data" ] && [ ! -f "$config" ]; then
  fail "will not remove $data" "found: no surefoot.toml in it" "name the data's folder by --data"
fi
if [ -n "$dry_run" ]; then
  say "would stop $domain/$label and remove $plist and $root"
  if [ -n "$remove_data" ]; then say "would remove the data in $data"; else say "would keep the data in $data"; fi
  exit 0
fi
may_change
python=$root/current/venv/bin/python
if [ -x "$python" ]; then lock "$python"; fi
stop_job || fail "the job did not stop in 60 s" "nothing was removed; run it again"
rm -f "$plist"
cd /
rm -rf "$root/current" "$root/.current.part" "$root/versions" "$root/pythons" "$root/install.lock"
rmdir "$root" 2>/dev/null || say "$root stays: there is something else in it"
if [ -n "$remove_data" ]; then
  rm -rf "$data"
  say "removed, with the data"
else
  say "removed; the data stays in $data"
fi
