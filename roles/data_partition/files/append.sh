# Makes a partition of the rest of a disk, behind the last one: arguments are the disk, the partition's path and its size in
# bytes, 0 for all there is. A disk in use takes it too: what else is on it stays as it is.
set -eu
disk=$1 part=$2 bytes=$3
case $(sfdisk --json "$disk") in
  # An image copied onto a larger disk has its second table in the middle of it.
  *'"label": "gpt"'*) sfdisk --quiet --no-reread --no-tell-kernel --force --relocate gpt-bak-std "$disk" ;;
esac
size=
[ "$bytes" = 0 ] || size="size=$((bytes / 1048576))MiB, "
echo "${size}type=linux" | sfdisk --quiet --append --no-reread --no-tell-kernel --force "$disk"
partx --add --nr "${part##*[!0-9]}" "$disk"
for _ in $(seq 100); do
  [ ! -b "$part" ] || exit 0
  sleep 0.1
done
echo "$part was made and does not appear" >&2
exit 1
