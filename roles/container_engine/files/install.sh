# Installs packages of Debian and Ubuntu: from an offline kit alone, or from the device's own sources.
# usage: sh install.sh KIT PACKAGE...    KIT: a folder of .debs with its index, or "" for the device's own sources
# For sh -c, with a word for $0. The device's sources and lists stay as they are where a kit is used.
set -eu
kit=$1
shift
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
dpkg --configure -a # what a power cut or a killed run left half done
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
apt() {
  apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}
if [ -n "$kit" ]; then
  # Signed as a whole (`surefoot kit verify`), so apt may trust the folder. A space in a path is %20 in a source.
  printf 'deb [trusted=yes] file:%s ./\n' "$(printf %s "$kit" | sed 's/ /%20/g')" >"$state/sources.list"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  from_kit() {
    apt -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$state/lists" \
      -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root "$@"
  }
  from_kit update
  from_kit install --no-install-recommends "$@" && exit 0
  echo "the kit does not install $*; found a kit at $kit, expected in it what apt names above. What to do: check it with" \
    "'surefoot kit verify', and that it was made for this device's release and architecture" >&2
  exit 1
fi
# The lists of packages are fetched only where those at hand do not do.
apt install --no-install-recommends "$@" && exit 0
apt update || true
apt install --no-install-recommends "$@" && exit 0
echo "apt does not install $*; found what it says above, expected sources of packages that have them and can be reached." \
  "What to do: give the device a network or mend its sources, or install from an offline kit (docs/delivery.md)" >&2
exit 1
